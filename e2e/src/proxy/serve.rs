//! One connection of a client.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::http::Head;
use super::{Answer, Fault, Request, Shared, State, When};

/// A request whose sender believes it lost.
pub(super) struct Kept {
    head: Head,
    body: Vec<u8>,
    method: String,
    target: String,
    when: When,
    /// Its place in the record.
    index: usize,
}

/// How a connection ends.
enum End {
    Close,
    Reset,
}

/// Serves one connection to its end.
pub(super) fn serve(shared: &Shared, client: &TcpStream) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    if let End::Reset = exchange(shared, client)? {
        // With nothing to linger for, the last close sends a reset.
        socket2::SockRef::from(client).set_linger(Some(Duration::ZERO))?;
    }
    Ok(())
}

fn exchange(shared: &Shared, client: &TcpStream) -> std::io::Result<End> {
    let mut from_client = BufReader::new(client.try_clone()?);
    let mut to_client = client.try_clone()?;
    let mut upstream: Option<BufReader<TcpStream>> = None;
    while let Some(head) = Head::read(&mut from_client)? {
        assert!(!head.is_chunked(), "the proxy takes requests with a length only");
        let mut words = head.lines[0].split_whitespace();
        let method = words.next().unwrap_or_default().to_owned();
        let target = words.next().unwrap_or_default().to_owned();
        let gated = shared.gate.takes(&method, &target);
        let (index, fault, generation) = note(shared, &head, &method, &target);
        let mut body = (&mut from_client).take(head.length());
        match fault {
            Some(Fault::Close) => return Ok(End::Close),
            Some(Fault::Reset) => return Ok(End::Reset),
            Some(Fault::Kill(process)) => {
                kill(process);
                return Ok(End::Close);
            }
            Some(Fault::Hang) => {
                wait(shared, generation, |_| false);
                return Ok(End::Close);
            }
            Some(Fault::Status(status)) => {
                std::io::copy(&mut body, &mut std::io::sink())?;
                answered(shared, index, status);
                to_client.write_all(Answer::new(status, "").text(&method).as_bytes())?;
                continue;
            }
            Some(Fault::Answer(answer)) if !answer.forwarded => {
                std::io::copy(&mut body, &mut std::io::sink())?;
                answered(shared, index, answer.status);
                to_client.write_all(answer.text(&method).as_bytes())?;
                continue;
            }
            Some(Fault::Late(when) | Fault::LateSilent(when)) => {
                let mut bytes = Vec::new();
                body.read_to_end(&mut bytes)?;
                shared.state().kept.push(Kept { head, body: bytes, method, target, when, index });
                shared.changed.notify_all();
                if matches!(fault, Some(Fault::LateSilent(_))) {
                    wait(shared, generation, |_| false);
                }
                return Ok(End::Close);
            }
            Some(Fault::Gather(count)) => {
                shared.state().gathered += 1;
                shared.changed.notify_all();
                wait(shared, generation, |state| state.gathered >= count);
            }
            _ => {}
        }
        if gated {
            shared.gate.request();
        }
        let same = |kept: &Kept| kept.method == method && kept.target == target;
        deliver(shared, |kept| kept.when == When::BeforeRetry && same(kept))?;

        let head = if fault == Some(Fault::Unconditional) { head.without_condition() } else { head };
        if upstream.is_none() {
            upstream = Some(connect(shared.upstream)?);
        }
        let Some(server) = upstream.as_mut() else { return Ok(End::Close) };
        head.write(server.get_mut())?;
        std::io::copy(&mut body, server.get_mut())?;
        let Some(reply) = Head::read(server)? else { return Ok(End::Close) };
        if let Some(Fault::Answer(answer)) = fault {
            reply.copy_body(&method, server, &mut std::io::sink())?;
            answered(shared, index, answer.status);
            to_client.write_all(answer.text(&method).as_bytes())?;
            continue;
        }
        deliver(shared, |kept| kept.when == When::AfterRetry && same(kept))?;
        answered(shared, index, reply.status());
        match fault {
            Some(Fault::LoseReply) => return Ok(End::Close),
            Some(Fault::KillAfter(process)) => {
                kill(process);
                return Ok(End::Close);
            }
            Some(Fault::LoseReplyReset) => return Ok(End::Reset),
            Some(Fault::LoseReplySilent) => {
                wait(shared, generation, |_| false);
                return Ok(End::Close);
            }
            Some(Fault::CutReply) => {
                let text = reply.lines.concat();
                to_client.write_all(&text.as_bytes()[..text.len() / 2])?;
                return Ok(End::Close);
            }
            _ => {}
        }
        if gated {
            shared.gate.reply();
        }
        reply.write(&mut to_client)?;
        reply.copy_body(&method, server, &mut to_client)?;
        if reply.headers.get("connection").is_some_and(|v| v.eq_ignore_ascii_case("close")) {
            break;
        }
    }
    Ok(End::Close)
}

/// Records a request; its place, what is to happen to it, and the generation of the rules that said so.
fn note(shared: &Shared, head: &Head, method: &str, target: &str) -> (usize, Option<Fault>, u64) {
    let mut state = shared.state();
    let request = Request {
        method: method.to_owned(),
        target: target.to_owned(),
        headers: head.headers.clone(),
        body_bytes: head.length(),
        came: Instant::now(),
        answered: None,
        status: None,
    };
    let fault = state.rules.iter_mut().find_map(|rule| rule.takes(&request).then_some(rule.fault));
    state.hits += usize::from(fault.is_some());
    state.requests.push(request);
    shared.changed.notify_all();
    (state.requests.len() - 1, fault, state.generation)
}

fn answered(shared: &Shared, index: usize, status: u16) {
    let mut state = shared.state();
    if let Some(request) = state.requests.get_mut(index) {
        request.status = Some(status);
        request.answered = Some(Instant::now());
    }
    shared.changed.notify_all();
}

/// Waits until the rules change, the proxy refuses connections, or the condition holds.
fn wait(shared: &Shared, generation: u64, done: impl Fn(&State) -> bool) {
    let mut state = shared.state();
    while !done(&state) && state.generation == generation && !state.refusing {
        state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Sends what was kept to the store, oldest first; what the store answered.
pub(super) fn deliver(shared: &Shared, which: impl Fn(&Kept) -> bool) -> std::io::Result<Vec<u16>> {
    let due: Vec<_> = shared.state().kept.extract_if(.., |kept| which(kept)).collect();
    let mut statuses = Vec::new();
    for kept in due {
        let mut server = connect(shared.upstream)?;
        kept.head.write(server.get_mut())?;
        server.get_mut().write_all(&kept.body)?;
        if let Some(reply) = Head::read(&mut server)? {
            reply.copy_body(&kept.method, &mut server, &mut std::io::sink())?;
            answered(shared, kept.index, reply.status());
            statuses.push(reply.status());
        }
    }
    Ok(statuses)
}

fn connect(upstream: SocketAddr) -> std::io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(upstream)?;
    stream.set_nodelay(true)?;
    Ok(BufReader::with_capacity(1 << 16, stream))
}

impl Kept {
    /// What would have been stored.
    pub(super) fn body(&self) -> Vec<u8> {
        self.body.clone()
    }
}

/// The process may be dead by then.
fn kill(process: u32) {
    let killed = Command::new("/bin/kill").args(["-9", &process.to_string()]).status();
    assert!(killed.is_ok(), "kill can't be run");
}
