//! `chanrpc watch`: prints the events of topics.

use std::collections::HashMap;
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use serde_json::value::RawValue;
use smol::future::FutureExt;

use super::arguments::{Arguments, Command, Count, Operand, Opt};
use super::connection::{CONNECTION, Connected};
use super::result::explain;
use super::{Exit, json, print_error, visible};
use crate::message::{Fault, RawJson, code};
use crate::remote::{Connection, RemoteError};
use crate::route::{Call, PeerError, Provider, RegistryBuilder};

const COUNT: Opt = Opt::with_value("--count", "N", "end after N events");
const SINCE: Opt = Opt::with_value("--since", "SEQ", "begin after the event with this number; for one topic");
const DATA: Opt = Opt::switch("--data", "print only the data of each event");
const ONCE: Opt = Opt::switch("--once", "end when the connection is lost, instead of connecting again");

pub(super) const WATCH: Command = Command {
    name: "watch",
    about: "Print the events of topics, one a line.",
    operands: &[
        Operand { name: "TOPIC", about: "a topic, or a family such as 'chat.*'", count: Count::One },
        Operand { name: "TOPIC", about: "further topics", count: Count::Any },
    ],
    options: &[&[COUNT, SINCE, DATA, ONCE], CONNECTION],
    notes: "Events that were dropped are printed as {\"missed\":3,\"topic\":…}, or with null if their number is not known;\n\
            with --data on stderr.\n\n\
            Exit codes: 0 after --count events or when stdout is closed, 2 usage, 3 node not found, or lost with --once,\n\
            4 no answer within --timeout, 5 denied, 130 interrupted.",
    run: run_watch,
};

fn run_watch(mut arguments: Arguments) -> Result<Exit, String> {
    let mut connection = super::connection::Connection::take(&mut arguments)?;
    let left = arguments.parsed::<u64>(&COUNT)?;
    let since = arguments.parsed::<u64>(&SINCE)?;
    let (is_data_only, once) = (arguments.has(&DATA), arguments.has(&ONCE));
    let topics = std::mem::take(&mut arguments.operands);
    if since.is_some() && (topics.len() > 1 || topics[0].ends_with('*')) {
        return Err("--since is the number of an event of one topic; name one, which is no family".to_owned());
    }
    if left == Some(0) {
        return Ok(Exit::Success);
    }
    let seqs = since.map(|since| (topics[0].clone(), since)).into_iter().collect();
    let watched = Watched { seqs, epochs: HashMap::new(), left, is_data_only };
    let (done, exit) = async_channel::bounded(1);
    let (end, ended) = async_channel::bounded(1);
    let watched = Arc::new((Mutex::new(watched), done));
    let events = Events { watched: watched.clone(), end };
    connection.registry = Some(RegistryBuilder::new("".into(), &[]).fallback(Arc::new(events)).build());
    connection.with_remote(async |connected| {
        let done = async { exit.recv().await.unwrap_or(Exit::Failed) };
        done.or(follow(connected, &topics, &watched, once, &ended)).await
    })
}

/// Receives what the node tells of topics.
struct Events {
    watched: Shared,
    /// Told that a subscription has ended.
    end: Sender<()>,
}

impl Provider for Events {
    fn call(&self, call: Call<'_>) {
        let method = call.method();
        match method {
            "rpc.event" | "rpc.missed" => {}
            "rpc.ended" => _ = self.end.try_send(()),
            _ => {
                let message = "only events are received here";
                return call.reply(Err(Fault::new(code::UNKNOWN_FUNCTION, message)));
            }
        }
        with(&self.watched, |watched| watched.told(method, call.params().map_or("", RawJson::get)));
        call.reply(Ok(RawJson::NULL));
    }
}

/// What was printed, and where the exit code goes.
type Shared = Arc<(Mutex<Watched>, Sender<Exit>)>;

/// What was printed.
struct Watched {
    /// The number of the last event of each topic.
    seqs: HashMap<String, u64>,
    /// The epoch of each subscription.
    epochs: HashMap<String, Option<String>>,
    /// The number of events left to print.
    left: Option<u64>,
    is_data_only: bool,
}

/// Runs `print`, and ends the command if it returns an exit code.
fn with(shared: &Shared, print: impl FnOnce(&mut Watched) -> Option<Exit>) {
    let mut watched = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(exit) = print(&mut watched) {
        let _ = shared.1.try_send(exit);
    }
}

/// Subscribes to the topics, again after each loss.
async fn follow(
    connected: &Connected,
    topics: &[String],
    shared: &Shared,
    once: bool,
    ended: &Receiver<()>,
) -> Exit {
    let lease = match connected.remote.lease() {
        Ok(lease) => lease,
        Err(error) => return explain(&error),
    };
    let connection = lease.connection();
    let mut is_first = true;
    loop {
        let mut is_lost = false;
        for topic in topics {
            match subscribe(connection, topic, shared, is_first, connected.timeout).await {
                Ok(()) => {}
                Err(RemoteError::Unreachable { .. } | RemoteError::Lost { .. }) if !is_first && !once => {
                    is_lost = true;
                    break;
                }
                Err(error) => return explain(&error),
            }
        }
        is_first = false;
        if !is_lost {
            let lost = async {
                connection.lost().await;
                true
            };
            let subscription_ended = async {
                let _ = ended.recv().await;
                false
            };
            is_lost = lost.or(subscription_ended).await;
        }
        if is_lost && once {
            print_error(format_args!("the connection to {} was lost", connected.address));
            return Exit::Unavailable;
        }
        if let Err(error) = connection.reconnected().await {
            return explain(&error);
        }
    }
}

/// Subscribes to a topic.
async fn subscribe(
    connection: &Connection,
    topic: &str,
    shared: &Shared,
    is_first: bool,
    timeout: Duration,
) -> Result<(), RemoteError> {
    let peer = connection.connected().await?;
    let mut params = String::new();
    with(shared, |watched| {
        params = watched.request(topic);
        None
    });
    let (params, deadline) = (Some(RawJson::checked(params)), Some(Instant::now() + timeout));
    let (sender, replied) = async_channel::bounded(1);
    let (topic, shared) = (topic.to_owned(), shared.clone());
    // On the thread of the connection, so before the first event.
    let answer = move |reply: Result<RawJson<'_>, PeerError>| {
        if let Ok(reply) = &reply {
            with(&shared, |watched| watched.subscribed(&topic, reply.get(), is_first));
        }
        let _ = sender.try_send(reply.map(drop));
    };
    peer.call(peer.reserve(), "rpc.subscribe".into(), params, deadline, 0, false, answer);
    let dropped = |_| Err(PeerError::Lost("the client was dropped".into()));
    replied.recv().await.unwrap_or_else(dropped).map_err(|error| connection.error(error))
}

/// What a node tells of a topic, and its reply to a subscription.
#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct Told<'a> {
    topic: String,
    seq: Option<u64>,
    epoch: Option<String>,
    missed: bool,
    count: Option<u64>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

impl Watched {
    /// Returns the parameters of a subscription that continues after the last event.
    fn request(&self, topic: &str) -> String {
        let quoted = |text: &str| serde_json::to_string(text).unwrap_or_default();
        let since = self.seqs.get(topic).map_or(String::new(), |seq| format!(",\"since\":{seq}"));
        let epoch = self.epochs.get(topic).and_then(Option::as_ref).filter(|_| !since.is_empty());
        let epoch = epoch.map_or(String::new(), |epoch| format!(",\"epoch\":{}", quoted(epoch)));
        format!("{{\"topic\":{}{since}{epoch}}}", quoted(topic))
    }

    fn subscribed(&mut self, topic: &str, reply: &str, is_first: bool) -> Option<Exit> {
        let Told { seq, epoch, missed, .. } = serde_json::from_str(reply).unwrap_or_default();
        let before = self.epochs.insert(topic.to_owned(), epoch.clone());
        if let Some(seq) = seq {
            let last = self.seqs.entry(topic.to_owned()).or_insert(seq);
            if before.is_some_and(|before| before != epoch) {
                // Numbers have begun anew.
                *last = seq;
            }
        }
        let is_new_family = seq.is_none() && is_first;
        let is_missing = missed || (seq.is_none() && !is_new_family);
        if is_missing { self.missed(topic, None) } else { None }
    }

    /// Prints what the node tells. Returns the exit code if that was the last.
    fn told(&mut self, method: &str, params: &str) -> Option<Exit> {
        // MessagePack-RPC has an array.
        let params = params.strip_prefix('[').and_then(|params| params.strip_suffix(']')).unwrap_or(params);
        let told = serde_json::from_str::<Told<'_>>(params).unwrap_or_default();
        match (method, told.data, told.seq) {
            ("rpc.event", Some(data), Some(seq)) if self.left != Some(0) => {
                if !told.topic.is_empty() {
                    self.seqs.insert(told.topic, seq);
                }
                self.left = self.left.map(|left| left - 1);
                let line = if self.is_data_only { data.get() } else { params };
                let is_last = (self.left == Some(0)).then_some(Exit::Success);
                put(line).or(is_last)
            }
            ("rpc.missed", ..) => self.missed(&told.topic, told.count),
            _ => None,
        }
    }

    fn missed(&self, topic: &str, count: Option<u64>) -> Option<Exit> {
        let count = count.map_or_else(|| "null".to_owned(), |count| count.to_string());
        let topic = serde_json::to_string(topic).unwrap_or_default();
        let line = format!("{{\"missed\":{count},\"topic\":{topic}}}");
        if self.is_data_only {
            print_error(format_args!("{line}"));
            return None;
        }
        put(&line)
    }
}

/// Prints JSON on a line. Returns the exit code if nobody reads it.
fn put(json: &str) -> Option<Exit> {
    let mut stdout = std::io::stdout();
    let line = json::compact(json);
    let line = if stdout.is_terminal() { visible(&line) } else { line };
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        Ok(()) => None,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Some(Exit::Success),
        Err(error) => {
            print_error(format_args!("writing an event failed: {error}"));
            Some(Exit::Failed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_of_an_earlier_epoch_is_not_continued_after() {
        let (seqs, epochs) = ([("a".to_owned(), 9), ("b".to_owned(), 7)].into(), HashMap::new());
        let mut watched = Watched { seqs, epochs, left: None, is_data_only: false };
        let mut subscribed = |topic: &str, seq: u64, epoch: &str| {
            let reply = format!("{{\"seq\":{seq},\"epoch\":\"{epoch}\",\"missed\":false}}");
            watched.subscribed(topic, &reply, false);
            (watched.request("a"), watched.request("b"))
        };
        subscribed("a", 12, "one");
        let (a, b) = subscribed("b", 7, "one");
        assert_eq!(a, "{\"topic\":\"a\",\"since\":9,\"epoch\":\"one\"}", "what was asked for is on its way");
        assert_eq!(b, "{\"topic\":\"b\",\"since\":7,\"epoch\":\"one\"}");
        // The node has started again, and the other topic is not subscribed to yet.
        let (a, b) = subscribed("a", 2, "two");
        assert_eq!(a, "{\"topic\":\"a\",\"since\":2,\"epoch\":\"two\"}");
        assert_eq!(b, "{\"topic\":\"b\",\"since\":7,\"epoch\":\"one\"}");
    }
}
