//! Functions on the network with access rules and TLS. Needs openssl, which makes a certificate.

use std::io;
use std::path::Path;
use std::process::Command;

use chanrpc::config::Config;
use chanrpc::message::code;
use chanrpc::remote::Connector;
use chanrpc::{Functions, Id0, Id1, Node, Remote};

const READ: Id1<(), i64> = Id1::new("meter.read");
const RESET: Id0<()> = Id0::new("meter.reset");

/// `chanrpc token` creates a token and the hash of it that the configuration has.
const TOKEN: &str = "example";
const CONFIG: &str = "
[[listen]]
address = '127.0.0.1:0'
tls = { certificate = 'target/example.pem', key = 'target/example.key' }

[[access]]                      # for everyone
functions = ['meter.read']

[[access]]                      # for holders of the token
functions = ['meter.*']
token = 'sha256:50d858e0985ecc7f60418aaf0cc5ab587f42c2570a884095a9e8ccacd0f6545c'
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    make_certificate()?;
    let mut functions = Functions::exported();
    functions.register(READ, |meter: &mut i64, ()| *meter)?.register(RESET, |meter, ()| *meter = 0)?;
    let node = Node::from_config(Config::parse(CONFIG, "meter.toml")?).serve(functions, 42).start()?;

    let address = node.addresses()[0].to_string();
    let tls = Connector::load(Path::new("target/example.pem"), None)?;
    let guest = Remote::builder(&address).tls(tls.clone()).connect();
    let owner = Remote::builder(&address).tls(tls).token(TOKEN).connect();
    assert_eq!(guest.call(READ, ()).wait()?, 42);
    let denied = guest.call(RESET, ()).wait().expect_err("it needs a token");
    println!("without a token: {denied}");
    assert_eq!(denied.fault().map(|fault| fault.code), Some(code::DENIED));
    owner.call(RESET, ()).wait()?;
    assert_eq!(guest.call(READ, ()).wait()?, 0);
    Ok(())
}

/// Makes a certificate for this machine that clients trust by itself. docs/operations.md shows how to make an authority.
fn make_certificate() -> io::Result<()> {
    let options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=example -days 1 \
                   -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=IP:127.0.0.1 \
                   -keyout target/example.key -out target/example.pem";
    std::fs::create_dir_all("target")?;
    let done = Command::new("openssl").args(options.split_whitespace()).output()?;
    if done.status.success() { Ok(()) } else { Err(io::Error::other(String::from_utf8_lossy(&done.stderr))) }
}
