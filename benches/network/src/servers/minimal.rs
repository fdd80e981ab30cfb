//! A minimal JSON-RPC server: lines, serde_json, one function; no limits, no other dialect.

use std::io::Write;

use serde_json::value::RawValue;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::TcpStream;

use super::echo;

const BUFFER: usize = 16 * 1024;

pub(super) fn serve() {
    echo::accept(connection);
}

async fn connection(mut stream: TcpStream) -> std::io::Result<()> {
    let mut input = vec![0; BUFFER];
    let mut filled = 0;
    let mut output = Vec::new();
    loop {
        if filled == input.len() {
            input.resize(2 * filled, 0);
        }
        match stream.read(&mut input[filled..]).await? {
            0 => return Ok(()),
            count => filled += count,
        }
        let mut begin = 0;
        while let Some(end) = input[begin..filled].iter().position(|byte| *byte == b'\n') {
            answer(&input[begin..begin + end], &mut output)?;
            begin += end + 1;
        }
        input.copy_within(begin..filled, 0);
        filled -= begin;
        stream.write_all(&output).await?;
        output.clear();
    }
}

fn answer(line: &[u8], output: &mut Vec<u8>) -> std::io::Result<()> {
    let request: Request<'_> = serde_json::from_slice(line)?;
    let id = request.id.get();
    match request.method {
        "add" => {
            let (a, b): (i64, i64) = serde_json::from_str(request.params.get())?;
            writeln!(output, "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{}}}", a + b)
        }
        _ => writeln!(
            output,
            "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{{\"code\":-32601,\"message\":\"no such function\"}}}}"
        ),
    }
}

#[derive(serde::Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    method: &'a str,
    #[serde(borrow)]
    params: &'a RawValue,
}
