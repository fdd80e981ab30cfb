//! A build without TLS reports an error if TLS is configured.

use crate::support::{Folder, run};

#[test]
fn tls_options_fail_in_a_build_without_tls() {
    let folder = Folder::new();
    let listen = "[[listen]]\naddress = '127.0.0.1:0'\ntls = { certificate = 'a.pem', key = 'a.key' }\n";
    let forward = "[[function]]\nname = 'greet'\nforward = '127.0.0.1:1'\ntls = { ca = 'ca.pem' }\n";
    for (name, text, place) in
        [("listen", listen, "tls of 127.0.0.1:0"), ("forward", forward, "tls of \"127.0.0.1:1\"")]
    {
        folder.write(name, text);
        let ended = run(["serve", "--check", "--config", &folder.name(name)]);
        let said = ended.failed(2);
        assert!(said.contains(place) && said.contains("--features cli,tls"), "{said}");
    }
    let said = run(["call", "--ca", "ca.pem", "rpc.ping"]).failed(2).to_owned();
    assert!(said.contains("--ca: this build has no TLS"), "{said}");
}
