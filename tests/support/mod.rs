//! Helpers of the black-box tests: processes, nodes, and peers that speak plain TCP.
#![allow(dead_code, unused_imports, reason = "no target uses all of it")]

mod client;
pub(crate) mod executor;
mod folder;
mod messages;
mod node;
mod peers;
mod process;
mod waits;
mod woken;

pub(crate) use client::{Client, is_end};
pub(crate) use folder::Folder;
pub(crate) use messages::{Fault, HttpReply, assert_fault, fault, outcome, post, request};
pub(crate) use node::{Node, Stderr};
pub(crate) use peers::{Relay, fake_node, listen};
pub(crate) use process::{Ended, Process, binary, binary_in_shell, binary_words, is_gone, run, signal};
pub(crate) use waits::{LIMIT, await_some, ended, eventually, got, scale};
pub(crate) use woken::Woken;
