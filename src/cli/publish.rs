//! `chanrpc publish`.

use std::io::Read;

use super::arguments::{Arguments, Command, Count, Operand, Opt};
use super::connection::{CONNECTION, Connection};
use super::each::call_each;
use super::params::positional;
use super::result::{JSON, Layout, explain};
use super::{Exit, MAX_MESSAGE};
use crate::encoding;

const EACH_LINE: Opt = Opt::switch("--each-line", "publish each line of standard input as an event");
/// The calls in flight of `--each-line`.
const IN_FLIGHT: usize = 16;
const FUNCTION: &str = "rpc.publish";

pub(super) const PUBLISH: Command = Command {
    name: "publish",
    about: "Publish an event to a topic; print how many connections receive it.",
    operands: &[
        Operand { name: "TOPIC", about: "the topic", count: Count::One },
        Operand {
            name: "DATA",
            about: "JSON if it parses as JSON, else a string; - reads it from standard input",
            count: Count::Optional,
        },
    ],
    options: &[&[EACH_LINE, JSON], CONNECTION],
    notes: "Exit codes: 0 published, 1 refused, 2 usage, 3 node not found, 4 deadline, 5 denied, 130 interrupted.",
    run: run_publish,
};

fn run_publish(mut arguments: Arguments) -> Result<Exit, String> {
    let layout = Layout::of(&arguments);
    let connection = Connection::take(&mut arguments)?;
    let each_line = arguments.has(&EACH_LINE);
    let mut operands = std::mem::take(&mut arguments.operands).into_iter();
    let topic = serde_json::to_string(&operands.next().unwrap_or_default()).unwrap_or_default();
    let data = match (operands.next(), each_line) {
        (Some(_), true) => return Err("--each-line reads the events from standard input".to_owned()),
        (None, false) => {
            return Err("DATA is missing; --each-line reads events from standard input".to_owned());
        }
        (Some(dash), _) if dash == "-" => read_data()?,
        (data, _) => data.unwrap_or_default(),
    };
    connection.with_remote(async |connected| {
        if each_line {
            return call_each(connected, FUNCTION, Some(topic), IN_FLIGHT, layout).await;
        }
        match connected.call(FUNCTION, Some(positional(vec![topic, data]).into())).await {
            Ok(reached) => {
                layout.print(reached.get());
                Exit::Success
            }
            Err(error) => explain(&error),
        }
    })
}

fn read_data() -> Result<String, String> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().take(MAX_MESSAGE as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| format!("reading standard input failed: {error}"))?;
    if bytes.len() > MAX_MESSAGE {
        return Err(format!("standard input has more than {MAX_MESSAGE} bytes"));
    }
    let text = encoding::decode(&bytes).map_err(|error| format!("standard input: {error}"))?;
    Ok(text.trim_start_matches('\u{feff}').trim_end_matches(['\r', '\n']).to_owned())
}
