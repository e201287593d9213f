//! What the proxy can do to a request.

/// What the proxy does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Closes the connection without forwarding.
    Close,
    /// Resets the connection without forwarding.
    Reset,
    /// Answers with this status without forwarding.
    Status(u16),
    /// Answers so, without or after forwarding.
    Answer(Answer),
    /// Forwards nothing and answers nothing until the fault is lifted, then closes.
    Hang,
    /// Forwards, takes the reply, and closes the connection instead of passing it on.
    LoseReply,
    /// The same, with a reset.
    LoseReplyReset,
    /// The same, in silence until the fault is lifted.
    LoseReplySilent,
    /// Forwards, and closes the connection in the middle of the reply's headers.
    CutReply,
    /// Kills this process, and forwards nothing.
    Kill(u32),
    /// Forwards, takes the reply, and kills this process instead of passing it on.
    KillAfter(u32),
    /// Takes the whole request and closes the connection; the store gets it later.
    Late(When),
    /// The same, but the connection stays open and silent until the fault is lifted.
    LateSilent(When),
    /// Holds requests until this many have come or the rules change, then forwards all: simultaneous for sure.
    Gather(usize),
    /// Forwards without the condition, as if the store ignored it. Unsigned, because the condition was signed.
    Unconditional,
}

/// An error that the proxy answers in the store's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// S3's code for it.
    pub code: &'static str,
    /// `Retry-After`.
    pub retry_after_seconds: Option<u32>,
    /// The store got the request, and its own answer is dropped.
    pub forwarded: bool,
}

impl Answer {
    /// An answer without forwarding.
    pub const fn new(status: u16, code: &'static str) -> Self {
        Self { status, code, retry_after_seconds: None, forwarded: false }
    }

    /// The same after forwarding.
    pub const fn forwarded(self) -> Self {
        Self { forwarded: true, ..self }
    }

    pub(super) fn text(&self, method: &str) -> String {
        let body = match (method, self.code) {
            ("HEAD", _) | (_, "") => String::new(),
            (_, code) => format!("<Error><Code>{code}</Code><Message>a fault of the proxy</Message></Error>"),
        };
        let retry_after = self.retry_after_seconds.map(|s| format!("Retry-After: {s}\r\n")).unwrap_or_default();
        let (status, length) = (self.status, body.len());
        format!("HTTP/1.1 {status} Fault\r\n{retry_after}Content-Length: {length}\r\n\r\n{body}")
    }
}

/// When a request that was kept reaches the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// When the same method and path are asked for again, before that request is forwarded.
    BeforeRetry,
    /// The same, after the store has answered that request, and before its sender knows.
    AfterRetry,
    /// When [`super::Proxy::deliver`] says so.
    Told,
}
