//! A look into a bucket that owes nothing to the product: plain HTTP without a signature.

use std::net::SocketAddr;

/// One object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The whole key.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
}

/// A bucket of the server.
#[derive(Clone, Debug)]
pub struct Bucket {
    server: SocketAddr,
    name: String,
    agent: ureq::Agent,
}

impl Bucket {
    /// Names a bucket; [`Bucket::create`] makes it.
    pub fn new(server: SocketAddr, name: &str) -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(true).build();
        Self { server, name: name.to_owned(), agent: config.into() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn url(&self, key: &str) -> String {
        format!("http://{}/{}/{key}", self.server, self.name)
    }

    /// Makes it.
    pub fn create(&self) {
        self.agent.put(format!("http://{}/{}", self.server, self.name)).send("").expect("create the bucket");
    }

    /// Everything under a prefix, in the order of the keys.
    pub fn list(&self, prefix: &str) -> Vec<Object> {
        let mut objects = Vec::new();
        let mut after = String::new();
        loop {
            let mut request = self
                .agent
                .get(format!("http://{}/{}", self.server, self.name))
                .query("list-type", "2")
                .query("prefix", prefix);
            if !after.is_empty() {
                request = request.query("start-after", &after);
            }
            let xml = request.call().expect("list").into_body().read_to_string().expect("list");
            for entry in xml.split("<Contents>").skip(1) {
                let size = field(entry, "Size").parse().expect("a size");
                objects.push(Object { key: field(entry, "Key"), size });
            }
            if field(&xml, "IsTruncated") != "true" {
                break;
            }
            after.clone_from(&objects.last().expect("a truncated list isn't empty").key);
        }
        objects
    }

    /// The content of an object.
    pub fn get(&self, key: &str) -> Vec<u8> {
        let mut response = self.agent.get(self.url(key)).call().expect("get");
        response.body_mut().with_config().limit(u64::MAX).read_to_vec().expect("get")
    }

    /// Bytes `first` to `last` of an object, as they come.
    pub fn get_part(&self, key: &str, first: u64, last: u64) -> impl std::io::Read + use<> {
        let request = self.agent.get(self.url(key)).header("range", format!("bytes={first}-{last}"));
        request.call().expect("get").into_body().into_reader()
    }

    /// Puts an object, over what is there.
    pub fn put(&self, key: &str, content: &[u8]) {
        self.agent.put(self.url(key)).send(content).expect("put");
    }

    /// Puts an object with metadata of this name, over what is there.
    pub fn put_with(&self, key: &str, content: &[u8], name: &str, value: &str) {
        let request = self.agent.put(self.url(key)).header(format!("x-amz-meta-{name}"), value);
        request.send(content).expect("put");
    }

    /// What the metadata of this name says of an object.
    pub fn metadata(&self, key: &str, name: &str) -> Option<String> {
        let response = self.agent.head(self.url(key)).call().expect("head");
        let value = response.headers().get(format!("x-amz-meta-{name}"))?;
        Some(value.to_str().expect("text").to_owned())
    }

    /// Removes an object.
    pub fn delete(&self, key: &str) {
        self.agent.delete(self.url(key)).call().expect("delete");
    }
}

/// The text of the first such element; keys of these tests need no unescaping.
fn field(xml: &str, name: &str) -> String {
    let open = format!("<{name}>");
    let Some(start) = xml.find(&open) else { return String::new() };
    let rest = &xml[start + open.len()..];
    rest[..rest.find('<').unwrap_or(rest.len())].to_owned()
}
