//! Requests and replies as text.

use serde_json::{Value, json};

/// An error as received by a peer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fault {
    pub(crate) code: i64,
    pub(crate) message: String,
    pub(crate) data: Value,
}

/// Parses a reply and asserts that it is valid.
#[track_caller]
pub(crate) fn outcome(reply: &Value) -> Result<Value, Fault> {
    assert_eq!(reply["jsonrpc"], "2.0", "{reply}");
    let members = reply.as_object().unwrap();
    assert!(members.contains_key("id"), "{reply}");
    match (members.get("result"), members.get("error")) {
        (Some(result), None) => Ok(result.clone()),
        (None, Some(error)) => Err(Fault {
            code: error["code"].as_i64().unwrap(),
            message: error["message"].as_str().unwrap().to_owned(),
            data: error["data"].clone(),
        }),
        _ => panic!("neither a result nor an error: {reply}"),
    }
}

/// Returns the error of a reply.
#[track_caller]
pub(crate) fn fault(reply: &Value) -> Fault {
    outcome(reply).expect_err("an error was expected")
}

/// Asserts that a reply is an error with the given code and id.
#[track_caller]
pub(crate) fn assert_fault(reply: &Value, id: &Value, code: i64) {
    assert_eq!((fault(reply).code, &reply["id"]), (code, id), "{reply}");
}

/// Returns the text of a request without a line end.
pub(crate) fn request(id: impl Into<Value>, method: &str, params: &Value) -> String {
    json!({ "jsonrpc": "2.0", "id": id.into(), "method": method, "params": params }).to_string()
}

/// Returns an HTTP request with a JSON body.
pub(crate) fn post(body: &str) -> String {
    format!(
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// An HTTP response.
#[derive(Debug)]
pub(crate) struct HttpReply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl HttpReply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}
