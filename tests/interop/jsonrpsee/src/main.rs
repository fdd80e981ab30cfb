//! jsonrpsee's unmodified clients against two nodes: JSON-RPC over WebSocket and over HTTP.
//!
//! `interop-jsonrpsee FIRST NEAR`: a node with native functions, and one with programs that forwards to it.

use std::error::Error;
use std::time::Duration;

use jsonrpsee_core::client::{ClientT, Error as CallError};
use jsonrpsee_core::params::{ArrayParams, BatchRequestBuilder};
use jsonrpsee_core::rpc_params;
use jsonrpsee_http_client::HttpClient;
use jsonrpsee_ws_client::WsClientBuilder;
use serde_json::{Value, json};

const CALLS: i64 = 200;

type Done = Result<(), Box<dyn Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Done {
    let addresses: Vec<_> = std::env::args().skip(1).collect();
    let [first, near, ..] = &addresses[..] else { return Err("usage: interop-jsonrpsee FIRST NEAR".into()) };
    let all = async {
        let connect = |address: &str| WsClientBuilder::new().build(format!("ws://{address}/"));
        check("WebSocket", &connect(first).await?, &connect(near).await?).await?;
        let connect = |address: &str| HttpClient::builder().build(format!("http://{address}/"));
        check("HTTP", &connect(first)?, &connect(near)?).await
    };
    tokio::time::timeout(Duration::from_secs(60), all).await?
}

async fn check(name: &str, first: &impl ClientT, near: &impl ClientT) -> Done {
    println!("-- {name}");
    kinds("native", first).await?;
    kinds("forwarded", near).await?;
    notification(first).await?;
    batch(first).await?;
    concurrent(first).await?;
    programs(near).await
}

/// Functions with zero, one and several results, and an unknown function.
async fn kinds(place: &str, client: &impl ClientT) -> Done {
    assert_eq!(client.request::<Value, _>("demo.reset", rpc_params![]).await?, Value::Null);
    assert_eq!(client.request::<i64, _>("demo.add", rpc_params![20, 22]).await?, 42);
    assert_eq!(client.request::<(i64, i64), _>("demo.divide", rpc_params![17, 5]).await?, (3, 2));
    for (method, params, code) in [
        ("demo.add", rpc_params!["one", "two"], -32602),
        ("demo.panic", rpc_params![], -32603),
        ("demo.unknown", rpc_params![], -32601),
    ] {
        let (found, message, _) = refused(client, method, params).await;
        assert_eq!(found, code, "{method}: {message}");
        assert!(!message.is_empty());
    }
    println!("ok      {place}: no, one and several results; errors");
    Ok(())
}

/// Returns the error of a call: code, message and data.
async fn refused(client: &impl ClientT, method: &str, params: ArrayParams) -> (i32, String, Value) {
    match client.request::<Value, _>(method, params).await {
        Err(CallError::Call(error)) => {
            let data = error.data().map_or(Value::Null, |data| serde_json::from_str(data.get()).unwrap());
            (error.code(), error.message().to_owned(), data)
        }
        other => panic!("{method} is not refused: {other:?}"),
    }
}

async fn notification(client: &impl ClientT) -> Done {
    client.notification("demo.count", rpc_params![5]).await?;
    assert_eq!(client.request::<i64, _>("demo.count", rpc_params![0]).await?, 5);
    println!("ok      a notification ran, in order");
    Ok(())
}

async fn batch(client: &impl ClientT) -> Done {
    let mut batch = BatchRequestBuilder::new();
    for n in 0..3 {
        batch.insert("demo.add", rpc_params![n, 10])?;
    }
    batch.insert("demo.unknown", rpc_params![])?;
    let replies: Vec<_> = client.batch_request::<i64>(batch).await?.into_iter().collect();
    let replies: Vec<_> = replies.into_iter().map(|reply| reply.map_err(|error| error.code())).collect();
    assert_eq!(replies, [Ok(10), Ok(11), Ok(12), Err(-32601)]);
    println!("ok      a batch with an error in it");
    Ok(())
}

async fn concurrent(client: &impl ClientT) -> Done {
    let calls = (0..CALLS).map(|n| client.request::<i64, _>("demo.add", rpc_params![n, 7 * n]));
    let results = futures_util::future::try_join_all(calls).await?;
    assert!(results.into_iter().eq((0..CALLS).map(|n| 8 * n)));
    println!("ok      {CALLS} calls at once, each its own answer");
    Ok(())
}

async fn programs(near: &impl ClientT) -> Done {
    assert_eq!(near.request::<String, _>("program.echo", rpc_params!["ü"]).await?, "ü");
    let (code, _, data) = refused(near, "program.fails", rpc_params![]).await;
    assert_eq!((code, data), (-32013, json!({ "exit": 3, "signal": null, "stderr": "last words" })));
    println!("ok      programs");
    Ok(())
}
