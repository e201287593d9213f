//! An HTTP client that does exactly what it is told: no retries, no pooling, bodies cut where a test wants.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

/// One connection, kept alive.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    host: String,
}

/// A whole reply.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Connection {
    /// To a server's URL.
    pub(crate) fn open(url: &str) -> Self {
        let host = url.strip_prefix("http://").unwrap().to_owned();
        let stream = TcpStream::connect(&host).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream), host }
    }

    /// Sends a request and reads its reply.
    pub(crate) fn call(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        self.send_head(method, target, headers, body.len());
        self.send(body);
        self.reply(method)
    }

    pub(crate) fn send_head(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body_bytes: usize) {
        let mut head = format!("{method} {target} HTTP/1.1\r\nhost: {}\r\n", self.host);
        if body_bytes > 0 || method == "PUT" || method == "POST" {
            head += &format!("content-length: {body_bytes}\r\n");
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        self.send(format!("{head}\r\n").as_bytes());
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    /// Waits until the server asks for the body (`Expect: 100-continue`): its handler is reading then.
    pub(crate) fn wait_for_continue(&mut self) {
        let (status, headers) = self.head();
        assert_eq!((status, headers.len()), (100, 0));
    }

    pub(crate) fn reply(&mut self, method: &str) -> Reply {
        let (status, headers) = self.head();
        let mut body = Vec::new();
        if method != "HEAD" && status != 204 && status != 304 {
            let length = headers.get("content-length").expect("a length");
            body.resize(length.parse().unwrap(), 0);
            self.stream.read_exact(&mut body).unwrap();
        }
        Reply { status, headers, body }
    }

    fn head(&mut self) -> (u16, HashMap<String, String>) {
        let mut line = || {
            let mut line = String::new();
            self.stream.read_line(&mut line).unwrap();
            line.trim_end().to_owned()
        };
        let status = line().split(' ').nth(1).expect("a status line").parse().unwrap();
        let mut headers = HashMap::new();
        loop {
            let line = line();
            if line.is_empty() {
                return (status, headers);
            }
            let (name, value) = line.split_once(':').unwrap();
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
    }
}

impl Reply {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The texts of all XML elements with this name.
    pub(crate) fn elements(&self, name: &str) -> Vec<String> {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        self.text()
            .split(&open)
            .skip(1)
            .map(|rest| rest.split(&close).next().unwrap().replace("&quot;", "\""))
            .collect()
    }
}
