//! Asks a server for its services (<https://github.com/grpc/grpc/blob/master/doc/server-reflection.md>).

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use smol::Timer;
use smol::future::FutureExt;

use super::Head;
use super::exchange::message_of;
use crate::codec::grpc::{Status, prefixed};
use crate::codec::protobuf::wire::{Fields, put_bytes};
use crate::codec::protobuf::{Schema, descriptors};
use crate::transport::Stream;
use crate::transport::http2::{Client, Requests};

/// Old servers know `v1alpha`, some new ones only `v1`.
const PATHS: [&str; 2] = [
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];
/// The maximum number of files, and of all that they take as a multiple of a message.
const MAX_FILES: usize = 1000;
const MAX_SIZE: usize = 4;
/// How long a server may take to tell everything.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The questions: the fields of a `ServerReflectionRequest`.
const FILE_BY_NAME: u32 = 3;
const FILE_OF_SYMBOL: u32 = 4;
const LIST_SERVICES: u32 = 7;
/// The answers: the fields of a `ServerReflectionResponse`.
const FILES: u32 = 4;
const SERVICES: u32 = 6;
const ERROR: u32 = 7;

/// Returns the services of a server, whose messages take at most `max` bytes.
///
/// # Errors
/// If it does not tell, or not in time.
pub(super) async fn ask<S: Stream>(client: &mut Client<S>, head: &Head, max: usize) -> io::Result<Schema> {
    let asker = Asker { requests: client.requests(), head, max };
    let mut asked = pin!(asker.services());
    let told = poll_fn(|cx| match asked.as_mut().poll(cx) {
        Poll::Ready(told) => Poll::Ready(told),
        Poll::Pending => client.poll(cx, true).map(|ended| Err(ended.err().unwrap_or_else(ended_early))),
    });
    let late = async {
        Timer::after(TIMEOUT).await;
        Err(io::Error::new(io::ErrorKind::TimedOut, "the server did not describe its services in time"))
    };
    told.or(late).await
}

fn ended_early() -> io::Error {
    io::Error::other("the server closed the connection before it described its services")
}

struct Asker<'a> {
    requests: Requests,
    head: &'a Head,
    max: usize,
}

impl Asker<'_> {
    async fn services(&self) -> io::Result<Schema> {
        let mut path = PATHS[0];
        let mut listed = self.answer(path, LIST_SERVICES, "*").await;
        if listed.as_ref().is_err_and(|status| status.code == Status::UNIMPLEMENTED) {
            path = PATHS[1];
            listed = self.answer(path, LIST_SERVICES, "*").await;
        }
        let untold = |status: Status| {
            let hint = "name its descriptors, or let it have server reflection";
            io::Error::other(format!("the server does not describe its services: {}; {hint}", status.message))
        };
        let listed = listed.map_err(untold)?;
        let mut schema = Schema::default();
        let mut files = BTreeMap::new();
        let mut wanted: Vec<(u32, String)> = Vec::new();
        for (_, services) in descriptors::parts(&listed, &[SERVICES]) {
            for (_, service) in descriptors::parts(services, &[1]) {
                wanted.push((FILE_OF_SYMBOL, descriptors::name(service).to_owned()));
            }
        }
        let mut size = 0;
        while let Some((question, name)) = wanted.pop() {
            if question == FILE_BY_NAME && (files.contains_key(&name) || schema.has_file(&name)) {
                continue;
            }
            let answer = match self.answer(path, question, &name).await {
                Ok(answer) => answer,
                Err(status) => {
                    log::debug!("{} does not describe {name}: {}", self.head.authority, status.message);
                    continue;
                }
            };
            for (_, told) in descriptors::parts(&answer, &[FILES]) {
                for (_, file) in descriptors::parts(told, &[1]) {
                    size += file.len();
                    if files.len() >= MAX_FILES || size > MAX_SIZE * self.max {
                        let message = "the server describes too much: name the descriptors that are needed";
                        return Err(io::Error::other(message));
                    }
                    for (number, import) in Fields::of(file).filter_map(Result::ok) {
                        if let (3, Some(import)) = (number, import.text()) {
                            wanted.push((FILE_BY_NAME, import.to_owned()));
                        }
                    }
                    files.insert(descriptors::name(file).to_owned(), file.to_vec());
                }
            }
        }
        let mut set = Vec::new();
        files.values().for_each(|file| put_bytes(&mut set, 1, file));
        let invalid = |error| io::Error::other(format!("the server describes its services wrongly: {error}"));
        schema.add(&set).map_err(invalid)?;
        Ok(schema)
    }

    /// Asks one question, as a stream with one message.
    async fn answer(&self, path: &str, question: u32, name: &str) -> Result<Vec<u8>, Status> {
        let body = prefixed(|out| put_bytes(out, question, name.as_bytes()));
        let answer = self.requests.clone().send(self.head.request(path, &[]), body).await;
        let answer = answer.map_err(|error| Status::new(Status::UNAVAILABLE, format!("{error:?}")))?;
        let message = message_of(answer, self.max)?;
        let error = descriptors::parts(&message, &[ERROR]).next().map(|(_, error)| {
            let text = Fields::of(error).filter_map(Result::ok).find(|(number, _)| *number == 2);
            text.and_then(|(_, text)| text.text()).unwrap_or_default().to_owned()
        });
        match error {
            Some(error) => Err(Status::new(Status::NOT_FOUND, error)),
            None => Ok(message),
        }
    }
}
