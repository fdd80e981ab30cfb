//! Configuration files: every fixture under `tests/it/config/`, and the meaning of the valid ones.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::forward::{Balance, ForwardTarget, ForwardTlsConfig};
use super::*;

fn folder(name: &str) -> PathBuf {
    Path::new("tests/it/config").join(name)
}

/// Lists the fixtures of a folder: file name and text.
fn fixtures(name: &str) -> Vec<(String, String)> {
    let files = fs::read_dir(folder(name)).expect("the fixtures are there");
    files
        .map(|file| {
            let file = file.expect("the folder can be read");
            let text = fs::read_to_string(file.path()).expect("a fixture is UTF-8");
            (file.file_name().into_string().expect("a fixture's name is UTF-8"), text)
        })
        .collect()
}

fn load(name: &str) -> Config {
    Config::load(&folder("valid").join(name)).expect("the fixture is valid")
}

fn template(pieces: &[Piece]) -> ArgTemplate {
    ArgTemplate(pieces.to_vec())
}

fn literal(text: &str) -> Piece {
    Piece::Literal(text.to_owned())
}

fn param(name: &str, kind: ParamKind) -> ParamConfig {
    ParamConfig::new(name, kind)
}

#[test]
fn valid_files_are_accepted() {
    let fixtures = fixtures("valid");
    assert!(!fixtures.is_empty());
    for (file, text) in fixtures {
        if let Err(error) = Config::parse(&text, &file) {
            panic!("{error}");
        }
        // The line ends and the byte order mark that some editors write.
        let text = format!("\u{feff}{}", text.replace('\n', "\r\n"));
        if let Err(error) = Config::parse(&text, &file) {
            panic!("with CRLF: {error}");
        }
    }
}

#[test]
fn errors_describe_invalid_files() {
    let fixtures = fixtures("invalid");
    assert!(!fixtures.is_empty());
    for (file, text) in fixtures {
        let expected = text.lines().next().and_then(|line| line.strip_prefix("# expect: "));
        let expected = expected.unwrap_or_else(|| panic!("{file} does not begin with # expect:"));
        match Config::parse(&text, &file) {
            Ok(_) => panic!("{file} is accepted"),
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains(expected), "{file}\n expected: {expected}\n    found: {error}");
                assert_eq!(error.lines().count(), 1, "{error}");
            }
        }
    }
}

#[test]
fn text_that_is_not_toml_is_explained() {
    for (line, expected) in [
        ("address = 127.0.0.1:7300", "a text needs quotes, such as \"127.0.0.1:7300\""),
        ("name = board", "a text needs quotes, such as \"text\""),
        ("name =", "expected a value"),
        ("on = tru", "expected true or false"),
        ("name = \"a", "a quote is not closed"),
        ("name = 'a", "a quote is not closed"),
        (r#"directory = "C:\dir""#, r"a \ in double quotes is written \\"),
        ("a == 3", "expected key = value, one on each line"),
        ("name", "expected key = value, one on each line"),
        ("a: 3", "expected key = value, one on each line"),
        ("a = 1 b = 2", "expected key = value, one on each line"),
        ("a = [1, 2", "a [ is not closed by ]"),
        ("a = { b = 1", "a { is not closed by }"),
        ("[[listen]", "the heading of a table is [name] or [[name]]"),
    ] {
        let error = Config::parse(&format!("name = 'x'\n{line}\n"), "a").unwrap_err().to_string();
        assert!(error.starts_with(&format!("a:2: cannot read `{line}`: ")), "{error}");
        assert!(error.contains(expected), "{line}: {error}");
    }
    let with = |line: &str| Config::parse(&format!("[limits]\n{line}\n"), "a");
    assert_eq!(with("deadline = 0.5").unwrap().limits.deadline, Duration::from_millis(500));
    let error = with("connections = \"100\"").unwrap_err().to_string();
    assert!(error.ends_with("a value from 1 to 1000000, without quotes, found \"100\""), "{error}");
}

#[test]
fn every_mistake_of_a_table_is_told() {
    let mistakes = |text: &str| -> Vec<String> {
        let error = Config::parse(text, "a").unwrap_err().to_string();
        error.lines().map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(": ")).collect()
    };
    let exec = "[[function]]\nname = 'a b'\nexec = ['x', '{path}']\nparams = ['path']\nenv = { A = 1 }\n\
                inherit_env = 'X'\noutput = 'txt'\nresult = 'text'\nwhen_full = 'drop'\ntimeout = 'soon'\nbalance = 'first'\n";
    let keys =
        ["name", "params", "A in env", "inherit_env", "output", "result", "when_full", "timeout", "balance"];
    let lines = [2, 4, 5, 6, 7, 8, 9, 10, 11];
    let expected: Vec<_> = keys
        .iter()
        .zip(lines)
        .map(|(key, line)| match key.contains(" in ") {
            true => format!("a:{line}: {key}"),
            false => format!("a:{line}: {key} in [[function]]"),
        })
        .collect();
    assert_eq!(mistakes(exec), expected);
    for (text, lines) in [
        (
            "[[function]]\nname = 'a'\nforward = ['b:0', 'c:', 'd']\nbalance = 'round-robin'\nrepeatable = 'true'\nhedge = 1\n\
             exec_ = 1\ntls = { ca = 1 }\noutput = 'text'\n",
            &[3, 3, 4, 5, 7, 8, 9][..],
        ),
        ("[[listen]]\naddress = 1\nhosts = 2\norigins = 3\ntls = 4\ndialect = 5\n", &[2, 3, 4, 5, 6]),
        (
            "[[process]]\nname = 1\nrun = 2\nspeaks = 3\nper = 4\nstart = 5\nhello = 6\nenv = 7\nmeta = 8\nidle = 'x'\n\
             [[function]]\nname = 'a'\nprocess = 'p'\nmethod = 9\nparams = { b = 'x', c = 'y' }\nresult = 'z'\n",
            &[2, 3, 4, 5, 6, 7, 8, 9, 10, 14, 15, 15, 16],
        ),
        (
            "[[access]]\nfunctions = ['a b', 'c d']\ntoken = 'x'\nexpires = 1\n[[offer]]\nto = 1\nfunctions = 2\n\
             as = 'rpc.x'\nshare = 3\n[[topic]]\nname = 1\nwhen_full = 2\nforward = 3\n",
            &[2, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13],
        ),
        ("[workers]\ncount = 0\nwhen_full = 1\n[workers.exec]\nqueue = -1\n", &[2, 3, 4, 5]),
    ] {
        let found: Vec<_> = mistakes(text)
            .iter()
            .map(|mistake| mistake.split(':').nth(1).unwrap().parse::<i32>().unwrap())
            .collect();
        assert_eq!(found, lines, "{:?}", mistakes(text));
    }
}

#[test]
fn empty_file_gives_the_defaults() {
    assert_eq!(load("empty.toml"), Config::default());
    let config = Config::default();
    #[cfg(feature = "grpc")]
    assert_eq!(config.grpc, None);
    let Config {
        name,
        listen,
        processes,
        functions,
        topics,
        offers,
        access,
        workers,
        limits,
        access_log,
        ..
    } = config;
    assert!(processes.is_empty() && topics.is_empty());
    assert!(!access_log && offers.is_empty());
    assert_eq!(workers, NodeWorkers::default());
    assert_eq!((name.as_str(), listen.len(), functions.len(), access.len()), ("chanrpc", 0, 0, 0));
    let expected = Limits {
        message: 1_048_576,
        depth: 128,
        batch: 100,
        connections: 1024,
        per_host: None,
        in_flight: 64,
        output: 1_048_576,
        control_frames: 1000,
        head_timeout: Duration::from_secs(10),
        auth_timeout: Duration::from_secs(10),
        stall_timeout: Duration::from_secs(10),
        deadline: Duration::from_secs(30),
        hops: 8,
        drain: Duration::from_secs(5),
        queue: 1024,
        connect_timeout: Duration::from_secs(5),
        keepalive: Duration::from_secs(60),
        offer_keepalive: Duration::from_secs(15),
        forward_silence: Duration::from_secs(5),
        offers: 64,
        offered: 1024,
        forward_functions: 1024,
        processes: 32,
        token_delay: Duration::from_secs(5),
        topics: 1024,
        subscriptions: 64,
        events: 256,
    };
    assert_eq!(limits, expected);
}

#[test]
fn documented_example_is_parsed() {
    let disk_free = ExecConfig {
        argv: vec![template(&[literal("df")]), template(&[literal("-k")]), template(&[Piece::Param(0)])],
        params: vec![param("path", ParamKind::String)],
        output: OutputFormat::Text,
        result: None,
        timeout: Some(Duration::from_secs(2)),
        concurrency: 2,
        queue: 16,
        when_full: WhenFull::Refuse,
        output_limit: 1_048_576,
        directory: None,
        env: Vec::new(),
        inherit_env: Vec::new(),
    };
    let greet = ForwardConfig::new(vec![ForwardTarget::new("10.0.0.2:7300")]);
    let expected = Config {
        name: "board-a".to_owned(),
        listen: vec![ListenerConfig::new("127.0.0.1:7300")],
        processes: Vec::new(),
        functions: vec![
            FunctionConfig {
                name: "disk.free".to_owned(),
                description: None,
                workers: None,
                provider: ProviderConfig::Exec(disk_free),
            },
            FunctionConfig {
                name: "greet".to_owned(),
                description: None,
                workers: None,
                provider: ProviderConfig::Forward(greet),
            },
        ],
        topics: Vec::new(),
        offers: Vec::new(),
        access: Vec::new(),
        workers: NodeWorkers::default(),
        limits: Limits::default(),
        #[cfg(feature = "grpc")]
        grpc: None,
        access_log: false,
        ..Config::default()
    };
    assert_eq!(load("design.toml"), expected);
}

#[test]
fn every_key_is_parsed() {
    let shot = ExecConfig {
        argv: vec![
            template(&[literal("/usr/bin/shot")]),
            template(&[literal("--size="), Piece::Param(0), literal("x"), Piece::Param(1)]),
            template(&[literal("{literal}")]),
            template(&[]),
        ],
        params: vec![
            param("width", ParamKind::Integer),
            ParamConfig {
                default: Some("-3".to_owned()),
                description: Some("in pixels".to_owned()),
                ..param("height", ParamKind::Integer)
            },
            ParamConfig { leading_dash: true, ..param("gain", ParamKind::Number) },
            param("grey-scale", ParamKind::Boolean),
        ],
        output: OutputFormat::Json,
        result: Some("object".to_owned()),
        timeout: Some(Duration::from_secs(10)),
        concurrency: 1,
        queue: 0,
        when_full: WhenFull::Shed,
        output_limit: 1_500_000,
        directory: Some(PathBuf::from("/var/lib/camera")),
        env: [("CAMERA", "front"), ("EMPTY", "")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
        inherit_env: ["DISPLAY", "CAMERA_*"].map(str::to_owned).to_vec(),
    };
    let near = ForwardTarget {
        token_file: Some(PathBuf::from("/etc/chanrpc/token")),
        tls: Some(ForwardTlsConfig {
            ca: PathBuf::from("/etc/chanrpc/ca.pem"),
            identity: Some((PathBuf::from("board-a.pem"), PathBuf::from("board-a.key"))),
        }),
        ..ForwardTarget::new("10.0.0.2:7300")
    };
    let own = PathBuf::from("/etc/chanrpc/far.token");
    let far = ForwardTarget { to: "10.0.1.9:7300".to_owned(), token_file: Some(own), ..near.clone() };
    let math = ForwardConfig {
        timeout: Some(Duration::from_millis(1500)),
        balance: Balance::First,
        key: Some("player".to_owned()),
        repeatable: true,
        ..ForwardConfig::new(vec![near, far])
    };
    let hedged = ForwardConfig {
        balance: Balance::Turns,
        repeatable: true,
        hedge: Some(Duration::from_millis(50)),
        ..ForwardConfig::new(["a:7300", "b:7300"].map(ForwardTarget::new).to_vec())
    };
    let params = r#"{"version":"2025","depth":16,"ratio":1.5,"on":true,"none":[],"caps":{"list":["a",2]}}"#;
    let tools = ProcessConfig {
        name: "tools".to_owned(),
        run: ["python3", "-u", "tools.py"].map(str::to_owned).to_vec(),
        speaks: Speech::Headers,
        is_per_connection: false,
        instances: 2,
        in_flight: 1,
        queue: 7,
        is_on_demand: true,
        idle: Some(Duration::from_secs(600)),
        hello: Some(("initialize".to_owned(), Some(params.to_owned()))),
        then: Some("initialized".to_owned()),
        ready: Duration::from_secs(20),
        ping: Some("ping".to_owned()),
        stall: Duration::from_secs(360),
        cancel: None,
        stop: Duration::ZERO,
        directory: Some(PathBuf::from("/srv/tools")),
        env: vec![("LANG".to_owned(), "C.UTF-8".to_owned())],
        inherit_env: vec!["TOKEN".to_owned()],
        has_meta: true,
    };
    let mut listen = ["[::1]:0", "[::1]:0", "board-b.local:7300"].map(ListenerConfig::new);
    listen[2].hosts = ["board-b", "board-b.lan"].map(str::to_owned).to_vec();
    listen[2].origins = ["https://app.example", "http://localhost:3000"].map(str::to_owned).to_vec();
    listen[2].leaf = Some(LeafConfig {
        length: 4,
        order: ByteOrder::Little,
        min: 2,
        max: 32_768,
        websocket: true,
        #[cfg(feature = "grpc")]
        protobuf: None,
    });
    listen[2].tls = Some(ListenerTlsConfig {
        certificate: PathBuf::from("/etc/chanrpc/node.pem"),
        key: PathBuf::from("/etc/chanrpc/node.key"),
        client_ca: Some(PathBuf::from("/etc/chanrpc/clients.pem")),
    });
    let mut token = [0; 32];
    token.iter_mut().zip(0..).for_each(|(byte, value)| *byte = value);
    let location = |line: u32| format!("{}:{line}", folder("valid").join("everything.toml").display());
    let everybody = Rule {
        location: location(163),
        functions: vec!["rpc.list".to_owned()],
        offer: Vec::new(),
        subscribe: Vec::new(),
        publish: Vec::new(),
        name: None,
        token: None,
        listen: Vec::new(),
        expires: None,
    };
    let dashboard = Rule {
        location: location(166),
        functions: ["camera.*", "math.*"].map(str::to_owned).to_vec(),
        offer: vec!["py.*".to_owned()],
        subscribe: vec!["chat.*".to_owned()],
        publish: vec!["chat.lobby".to_owned()],
        name: Some("dashboard".to_owned()),
        token: Some(token),
        listen: vec!["board-b.local:7300".to_owned()],
        // 2026-12-31 23:30 UTC.
        expires: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_798_759_800_500)),
    };
    let expected = Config {
        name: "board-b".to_owned(),
        listen: listen.to_vec(),
        processes: vec![tools],
        functions: vec![
            FunctionConfig {
                name: "camera.shot".to_owned(),
                description: Some("Takes one picture.".to_owned()),
                workers: None,
                provider: ProviderConfig::Exec(shot),
            },
            FunctionConfig {
                name: "tools.*".to_owned(),
                description: Some("Whatever the tools do.".to_owned()),
                workers: Some(Workers { queue: 1, when_full: WhenFull::Shed, ..Workers::new(3) }),
                provider: ProviderConfig::Process(ProcessFunctionConfig {
                    process: "tools".to_owned(),
                    method: Some("tools/{tail}".to_owned()),
                    timeout: Some(Duration::from_secs(300)),
                    ..ProcessFunctionConfig::default()
                }),
            },
            FunctionConfig {
                name: "math.*".to_owned(),
                description: Some("Whatever the other board computes.".to_owned()),
                workers: Some(Workers { queue: 0, when_full: WhenFull::Wait, ..Workers::new(2) }),
                provider: ProviderConfig::Forward(math),
            },
            FunctionConfig {
                name: "prices".to_owned(),
                description: None,
                workers: None,
                provider: ProviderConfig::Forward(hedged),
            },
        ],
        topics: vec![
            TopicConfig {
                keep: 50,
                keep_bytes: 4096,
                when_full: Overflow::Latest,
                ..TopicConfig::new("chat.*")
            },
            TopicConfig { when_full: Overflow::End, ..TopicConfig::new("alarm") },
            TopicConfig {
                forward: Some(ForwardTarget {
                    token_file: Some("hub.token".into()),
                    ..ForwardTarget::new("hub:7300")
                }),
                ..TopicConfig::new("news.*")
            },
        ],
        access: vec![everybody, dashboard],
        offers: vec![
            OfferConfig {
                to: ForwardTarget {
                    token_file: Some("vps.token".into()),
                    tls: Some(ForwardTlsConfig { ca: "vps.pem".into(), identity: None }),
                    ..ForwardTarget::new("msgpack://vps.example:7300")
                },
                functions: vec!["camera.*".to_owned(), "uptime".to_owned()],
                prefix: "board-b.".to_owned(),
                is_shared: true,
            },
            OfferConfig {
                to: ForwardTarget::new("board-c:7300"),
                functions: vec!["*".to_owned()],
                prefix: String::new(),
                is_shared: false,
            },
        ],
        workers: NodeWorkers {
            node: Some(Workers { count: 64, queue: 100, when_full: WhenFull::Shed, share: Some(32) }),
            exec: Some(Workers { count: 4, queue: 256, when_full: WhenFull::Wait, share: None }),
            forward: Some(Workers { count: 40, queue: 0, when_full: WhenFull::Refuse, share: None }),
            process: Some(Workers::new(5)),
            native: Some(Workers::new(65_536)),
            peer: Some(Workers::new(12)),
        },
        limits: Limits {
            message: 65_536,
            depth: 32,
            batch: 10,
            connections: 50,
            per_host: Some(30),
            in_flight: 8,
            output: 262_144,
            control_frames: 1000,
            head_timeout: Duration::from_secs(3),
            auth_timeout: Duration::from_secs(4),
            stall_timeout: Duration::from_millis(2500),
            deadline: Duration::from_secs(300),
            hops: 3,
            drain: Duration::ZERO,
            queue: 512,
            connect_timeout: Duration::from_millis(250),
            keepalive: Duration::from_secs(90),
            offer_keepalive: Duration::from_secs(9),
            forward_silence: Duration::from_secs(8),
            offers: 5,
            offered: 50,
            forward_functions: 60,
            processes: 8,
            token_delay: Duration::from_millis(1500),
            topics: 100,
            subscriptions: 20,
            events: 128,
        },
        #[cfg(feature = "grpc")]
        grpc: None,
        access_log: true,
        ..Config::default()
    };
    assert_eq!(load("everything.toml"), expected);
}

#[test]
fn program_output_limit_defaults_to_the_message_limit() {
    let text = "[[function]]\nname = 'up'\nexec = ['uptime']\n[limits]\nmessage = '2 KiB'";
    let config = Config::parse(text, "test.toml").expect("valid");
    assert!(matches!(&config.functions[0].provider, ProviderConfig::Exec(exec) if exec.output_limit == 2048));
}

/// Limits for one kind of provider work without those of the node, and a function's queue is shorter than a shared one.
#[test]
fn workers_of_one_provider_kind() {
    let text = "workers.exec.count = 4\n[[function]]\nname = 'far'\nforward = 'b:1'\nworkers = 3";
    let config = Config::parse(text, "test.toml").expect("valid");
    assert_eq!(config.workers, NodeWorkers { exec: Some(Workers::new(4)), ..NodeWorkers::default() });
    assert_eq!(config.functions[0].workers, Some(Workers { queue: 16, ..Workers::new(3) }));
}

#[test]
fn leaf_defaults_match_leaf_within_the_limits() {
    let leaf = |settings: &str| {
        let text = format!("[[listen]]\naddress = '127.0.0.1:0'\ndialect = 'leaf'\n{settings}");
        let config = Config::parse(&text, "test.toml").expect("valid");
        config.listen[0].leaf.clone().expect("it is for Leaf")
    };
    let usual = LeafConfig {
        length: 2,
        order: ByteOrder::Big,
        min: 1,
        max: 4096,
        websocket: false,
        #[cfg(feature = "grpc")]
        protobuf: None,
    };
    assert_eq!(leaf(""), usual);
    assert_eq!(leaf("[listen.leaf]\nlength = 1"), LeafConfig { length: 1, max: 255, ..usual.clone() });
    assert_eq!(leaf("[limits]\nmessage = 1000"), LeafConfig { max: 1000, ..usual.clone() });
    assert_eq!(leaf("[listen.leaf]\nmax = 65535").max, 65_535);
    let websocket = leaf("[listen.leaf]\nlength = 1\nmax = 100000\nwebsocket = true");
    assert_eq!((websocket.max, websocket.websocket), (100_000, true));
}

#[test]
fn unreadable_file_is_an_error() {
    let error = Config::load(&folder("absent.toml")).expect_err("there is no such file");
    assert!(matches!(error, ConfigError::Read { .. }));
    assert!(error.to_string().starts_with("cannot read "), "{error}");
    assert!(std::error::Error::source(&error).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A partially overwritten file is valid or gives a clear error: nothing panics.
    #[test]
    fn no_text_panics(start in 0_usize..1100, length in 0_usize..20, patch in "[\\PC\n\"{}=\\[\\]]{0,12}") {
        let text: Vec<char> = include_str!("../../tests/it/config/valid/everything.toml").chars().collect();
        let (start, end) = (start.min(text.len()), (start + length).min(text.len()));
        let text: String = text[..start].iter().copied().chain(patch.chars()).chain(text[end..].iter().copied()).collect();
        if let Err(error) = Config::parse(&text, "test.toml") {
            prop_assert!(error.to_string().starts_with("test.toml:"));
        }
    }
}
