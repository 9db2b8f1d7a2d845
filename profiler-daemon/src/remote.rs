//! A recording by a running `rprofd serve`, for users who may not sample themselves: it takes orders
//! and tells news as one of our own does.

use std::{
    path::{Path, PathBuf},
    thread::JoinHandle,
    time::Duration,
};

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, sync::mpsc::UnboundedReceiver};

use crate::{
    profile::{Kind, Profile, SPENT_BYTES, Spent, Window, pprof},
    recorder::{Control, News, Order, RecordError, control::Orders},
    run::RunError,
    server::GREETING,
};

/// How often we look whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// How long it may take to answer that it records, or ends.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the daemon is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Its socket.
    pub(crate) socket: PathBuf,
    /// The processes.
    pub(crate) pids: Vec<u32>,
    /// And what they start.
    pub(crate) children: bool,
    /// What is to be measured.
    pub(crate) kind: Kind,
    /// Samples per second and CPU, in Hz.
    pub(crate) hertz: u64,
}

/// Whether a daemon answers at `socket`.
pub(crate) fn is_there(socket: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}

/// Starts the recording, on a thread of its own.
#[expect(clippy::type_complexity, reason = "the three ends of one thing, taken apart at once")]
pub(crate) fn spawn(
    asked: Asked,
) -> Result<(JoinHandle<Result<(), RecordError>>, Orders, UnboundedReceiver<News>), RunError> {
    let (control, orders, news) = Control::new()?;
    let failed = RunError::of("clone");
    let thread = std::thread::Builder::new().name("remote".into()).spawn(move || {
        let socket = asked.socket.clone();
        let wrong = |text: String| RecordError::Daemon { socket, text };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| wrong(error.to_string()));
        let socket = asked.socket.clone();
        runtime?
            .block_on(record(&control, &asked))
            .map_err(|text| RecordError::Daemon { socket, text })
    });
    Ok((thread.map_err(failed)?, orders, news))
}

/// Asks, waits, and tells what came. An error is a sentence.
async fn record(control: &Control, asked: &Asked) -> Result<(), String> {
    let mut random = [0; 8];
    let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
    let tag = u64::from_ne_bytes(random) | 1;
    let pids: Vec<_> = asked.pids.iter().map(u32::to_string).collect();
    let Asked { socket, kind, hertz, children, .. } = asked;
    let path = format!(
        "/record?pid={}&kind={}&hz={hertz}&children={children}&tag={tag}",
        pids.join(","),
        kind.name()
    );
    let mut looks = tokio::time::interval(LOOK);
    let mut begin = std::pin::pin!(tokio::time::timeout(PATIENCE, post(socket, &path)));
    let response = loop {
        tokio::select! {
            response = &mut begin => break response.map_err(|_| "it does not answer")??,
            // Nothing has begun, so nothing is to be waited for.
            _ = looks.tick() => if !control.orders().is_empty() {
                return Err("interrupted before it answered".into());
            },
        }
    };
    let is_refused = !response.status().is_success();
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    let mut has_started = false;
    loop {
        tokio::select! {
            frame = body.frame() => match frame {
                Some(frame) => {
                    let frame = frame.map_err(|error| error.to_string())?;
                    bytes.extend(frame.into_data().unwrap_or_default());
                }
                None => break,
            },
            _ = looks.tick() => {
                for order in control.orders() {
                    match order {
                        Order::Stop => {
                            let path = format!("/record/end?tag={tag}");
                            tokio::time::timeout(PATIENCE, post(socket, &path))
                                .await
                                .map_err(|_| "it does not answer")??;
                        }
                        Order::SkipNames => return Err("interrupted before it had answered".into()),
                        _ => {}
                    }
                }
            }
        }
        if !is_refused && !has_started && bytes.starts_with(GREETING) {
            has_started = true;
            control.tell(News::Started);
        }
    }
    if is_refused {
        return Err(String::from_utf8_lossy(&bytes).trim().to_owned());
    }
    let rest = bytes.strip_prefix(GREETING).ok_or("it is another version of rprofd")?;
    let (mut window, mut profiles) = decoded(rest)?;
    // What it was asked for: some kinds look alike.
    window.kind = *kind;
    for profile in &mut profiles {
        profile.kind = *kind;
    }
    let mut spent = Spent::default();
    profiles.iter().for_each(|it| spent += it.spent);
    control.tell(News::Stopped(profiles.len(), spent));
    control.tell(News::Window(window, profiles));
    Ok(())
}

/// Sends a request without a body.
async fn post(socket: &Path, path: &str) -> Result<Response<Incoming>, String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let stream = UnixStream::connect(socket).await.map_err(|error| failed(&error))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|error| failed(&error))?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(hyper::header::HOST, "localhost")
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    sender.send_request(request).await.map_err(|error| failed(&error))
}

/// The window, and the profiles of its processes.
fn decoded(mut bytes: &[u8]) -> Result<(Window, Vec<Profile>), String> {
    const CUT: &str = "the answer is cut short: it may have been stopped; see its log";
    let mut profiles = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let (spent, rest) = rest.split_first_chunk::<SPENT_BYTES>().ok_or(CUT)?;
        let (encoded, rest) = rest.split_at_checked(length).ok_or(CUT)?;
        let mut profile = pprof::decode(encoded).map_err(|error| error.to_string())?;
        profile.spent = Spent::from_bytes(spent);
        profiles.push(profile);
        bytes = rest;
    }
    if profiles.is_empty() || !bytes.is_empty() {
        return Err(CUT.into());
    }
    let window = profiles.remove(0);
    let loss = |comment: &String| {
        let (name, count) = comment.strip_prefix("lost.")?.split_once('=')?;
        let name = Window::LOSSES.into_iter().find(|known| *known == name)?;
        Some((name, count.parse().ok()?))
    };
    let losses = window.comments.iter().filter_map(loss).collect();
    let window = Window {
        kind: window.kind,
        start: window.start,
        duration: window.duration,
        period: window.period,
        losses,
        comments: window.comments,
    };
    Ok((window, profiles))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::sample::{empty, program};

    fn framed(profiles: &[Profile]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for profile in profiles {
            let encoded = pprof::encode(profile);
            bytes.extend((encoded.len() as u32).to_le_bytes());
            bytes.extend(profile.spent.to_bytes());
            bytes.extend(encoded);
        }
        bytes
    }

    #[test]
    fn what_the_daemon_sends_is_read() {
        let mut window = empty(1, "x");
        window.processes.clear();
        window.comments.push("lost.samples=3".to_owned());
        let mut app = program(7, "app", 0x1000);
        app.spent = Spent { threads: 2, running_ns: 1, runnable_ns: 2, waiting_ns: 3 };
        let bytes = framed(&[window, app.clone(), program(8, "b", 0x1000)]);
        let (window, profiles) = decoded(&bytes).unwrap();
        assert_eq!(window.losses, [("samples", 3)]);
        assert_eq!(profiles.len(), 2);
        assert_eq!(profiles[1].processes[0].pid, 8);
        assert_eq!((profiles[0].spent, profiles[1].spent), (app.spent, Spent::default()));
        for cut in [0, 3, 10, bytes.len() - 1] {
            assert!(decoded(&bytes[..cut]).is_err(), "{cut}");
        }
    }
}
