//! A user's services and messages, by their descriptors
//! (<https://protobuf.dev/programming-guides/techniques/#self-description>).

use prost_reflect::{
    DescriptorPool, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor, ServiceDescriptor,
};

use super::descriptors;
use super::transcode::MessageType;

/// Services and messages, as a compiler has described them.
#[derive(Clone, Debug)]
pub struct Schema {
    pool: DescriptorPool,
    files: Vec<File>,
}

/// One file, as reflection hands it out.
#[derive(Clone, Debug)]
struct File {
    name: String,
    imports: Vec<String>,
    bytes: Vec<u8>,
}

/// A method of a service.
#[derive(Clone, Debug)]
pub struct Method(MethodDescriptor);

/// Whether a method takes and gives one message or a stream of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streaming {
    /// One message each way.
    None,
    /// One message from the client, and any number from the server.
    Server,
    /// Any number of messages from the client.
    Client,
}

impl Default for Schema {
    fn default() -> Self {
        // Knows `google/protobuf/*.proto`, which many sets leave out.
        Self { pool: DescriptorPool::global(), files: Vec::new() }
    }
}

impl Schema {
    /// Adds the files of a `google.protobuf.FileDescriptorSet`. Those that are known already are ignored.
    ///
    /// # Errors
    /// Why the set cannot be used.
    pub fn add(&mut self, set: &[u8]) -> Result<(), String> {
        self.pool.decode_file_descriptor_set(set).map_err(|error| {
            let error = error.to_string();
            let is_import = error.contains("imported file");
            let hint = if is_import { "; make the set with protoc --include_imports" } else { "" };
            format!("{error}{hint}")
        })?;
        self.files.clear();
        for file in self.pool.files() {
            self.files.push(File {
                name: file.name().to_owned(),
                imports: file.dependencies().map(|import| import.name().to_owned()).collect(),
                bytes: file.encode_to_vec(),
            });
        }
        Ok(())
    }

    /// Returns `true` if a file of this name is known.
    pub fn has_file(&self, name: &str) -> bool {
        self.pool.get_file_by_name(name).is_some()
    }

    /// Returns the methods of all services.
    pub fn methods(&self) -> Vec<Method> {
        let methods = |service: ServiceDescriptor| service.methods().map(Method).collect::<Vec<_>>();
        self.pool.services().flat_map(methods).collect()
    }

    /// Returns a method by `package.Service/Method`. The first letter of its name may be small.
    pub fn method(&self, path: &str) -> Option<Method> {
        let (service, name) = path.split_once('/')?;
        let service = self.pool.get_service_by_name(service)?;
        let mut methods = service.methods();
        let is_it = |method: &MethodDescriptor| method.name() == name || small(method.name()) == name;
        methods.find(is_it).map(Method)
    }

    /// Returns a message by its full name.
    pub fn message(&self, name: &str) -> Option<MessageType> {
        self.pool.get_message_by_name(name).map(MessageType::new)
    }

    /// Returns the `FileDescriptorProto` that has a name, or that defines a symbol, with what a caller may see: the methods
    /// for which `sees` returns `true`, and what they need.
    pub fn file(&self, wanted: Wanted<'_>, sees: &dyn Fn(&str) -> bool) -> Option<Vec<u8>> {
        let file = self.files.iter().find(|file| match wanted {
            Wanted::Name(name) => file.name == name,
            Wanted::Symbol(symbol) => descriptors::defines(&file.bytes, symbol),
        })?;
        if !self.visible_files(sees).contains(&&*file.name) {
            return None;
        }
        let seen = descriptors::without_methods(&file.bytes, sees);
        match wanted {
            Wanted::Symbol(symbol) if !descriptors::defines(&seen, symbol) => None,
            _ => Some(seen),
        }
    }

    /// Returns the names of the files with a method that a caller sees, and of those that they import.
    fn visible_files(&self, sees: &dyn Fn(&str) -> bool) -> Vec<&str> {
        let has_seen = |file: &&File| {
            let services =
                || self.pool.services().filter(|service| service.parent_file().name() == file.name);
            services().any(|service| service.methods().any(|method| sees(&Method(method).path())))
        };
        let mut found: Vec<_> = self.files.iter().filter(has_seen).map(|file| &*file.name).collect();
        let mut at = 0;
        while let Some(name) = found.get(at) {
            let imports = self.files.iter().find(|file| file.name == *name).map(|file| &file.imports);
            for import in imports.into_iter().flatten() {
                if !found.contains(&&**import) {
                    found.push(import);
                }
            }
            at += 1;
        }
        found
    }
}

/// Which file is asked for.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// The one with this name.
    Name(&'a str),
    /// The one that defines this message, enumeration, service or method, or a part of it.
    Symbol(&'a str),
}

impl Method {
    /// Returns `package.Service/Method`.
    pub fn path(&self) -> String {
        format!("{}/{}", self.service(), self.0.name())
    }

    /// Returns the full name of its service.
    pub fn service(&self) -> &str {
        self.0.parent_service().full_name()
    }

    /// Returns its own name, with a small first letter.
    pub fn small_name(&self) -> String {
        small(self.0.name())
    }

    /// Returns the function that has it by default: `package.Service/Method` is `service.method`, with small first letters.
    pub fn default_function(&self) -> String {
        format!("{}.{}", small(self.0.parent_service().name()), self.small_name())
    }

    /// Returns in what direction it streams.
    pub fn streaming(&self) -> Streaming {
        match (self.0.is_client_streaming(), self.0.is_server_streaming()) {
            (true, _) => Streaming::Client,
            (false, true) => Streaming::Server,
            (false, false) => Streaming::None,
        }
    }

    /// Returns what `rpc.list` would tell of it as a function.
    pub fn listing(&self) -> String {
        let params: Vec<_> = self
            .0
            .input()
            .fields()
            .map(|field| {
                format!("{{\"name\":{:?},\"schema\":{},\"required\":false}}", field.name(), of_field(&field))
            })
            .collect();
        let params = match self.request().has_fields() {
            true => format!(",\"params\":[{}]", params.join(",")),
            false => String::new(),
        };
        let properties: Vec<_> = match self.reply().has_fields() {
            true => {
                let property = |field: FieldDescriptor| format!("{:?}:{}", field.name(), of_field(&field));
                self.0.output().fields().map(property).collect()
            }
            false => Vec::new(),
        };
        let result = match properties.is_empty() {
            true => of_message(&self.0.output()).to_owned(),
            false => format!("{{\"type\":\"object\",\"properties\":{{{}}}}}", properties.join(",")),
        };
        format!(
            "{{\"name\":{:?},\"provider\":\"grpc\",\"kind\":\"1\"{params},\"result\":{result}}}",
            self.path()
        )
    }

    /// Returns the message that it takes.
    pub fn request(&self) -> MessageType {
        MessageType::new(self.0.input())
    }

    /// Returns the message that it gives.
    pub fn reply(&self) -> MessageType {
        MessageType::new(self.0.output())
    }
}

/// Returns the JSON Schema of a field.
fn of_field(field: &FieldDescriptor) -> String {
    let one = match field.kind() {
        _ if field.is_map() => return "{\"type\":\"object\"}".to_owned(),
        Kind::Double | Kind::Float => "{\"type\":\"number\"}".into(),
        Kind::Bool => "{\"type\":\"boolean\"}".into(),
        Kind::String | Kind::Bytes => "{\"type\":\"string\"}".into(),
        Kind::Enum(kind) => {
            let names: Vec<_> = kind.values().map(|value| format!("{:?}", value.name())).collect();
            format!("{{\"type\":\"string\",\"enum\":[{}]}}", names.join(","))
        }
        Kind::Message(message) => of_message(&message).into(),
        _ => "{\"type\":\"integer\"}".into(),
    };
    if field.is_list() { format!("{{\"type\":\"array\",\"items\":{one}}}") } else { one }
}

/// Returns the JSON Schema of a message, without its fields.
fn of_message(message: &MessageDescriptor) -> &'static str {
    match message.full_name().strip_prefix("google.protobuf.") {
        Some("Timestamp" | "Duration" | "FieldMask" | "StringValue" | "BytesValue") => {
            "{\"type\":\"string\"}"
        }
        Some("Int32Value" | "Int64Value" | "UInt32Value" | "UInt64Value") => "{\"type\":\"integer\"}",
        Some("FloatValue" | "DoubleValue") => "{\"type\":\"number\"}",
        Some("BoolValue") => "{\"type\":\"boolean\"}",
        Some("ListValue") => "{\"type\":\"array\"}",
        Some("Value") => "{}",
        _ => "{\"type\":\"object\"}",
    }
}

/// Returns a name with a small first letter.
fn small(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or(String::new(), |first| first.to_ascii_lowercase().to_string() + letters.as_str())
}
