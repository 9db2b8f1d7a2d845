//! A running `rprofd serve`, and clients of it.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    dir::TestDir,
    pprof::Profile,
    programs::{Program, Running},
    rprofd::{Rprofd, Started, binary},
};

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The head, lower case.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn read(mut stream: impl std::io::Read) -> Self {
        let mut bytes = Vec::new();
        // A connection that is reset has answered what it has answered.
        let _ = stream.read_to_end(&mut bytes);
        let end = bytes.windows(4).position(|it| it == b"\r\n\r\n").unwrap_or(bytes.len());
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let status = head.split(' ').nth(1).and_then(|it| it.parse().ok()).unwrap_or_default();
        let body = bytes.get(end + 4..).unwrap_or_default().to_vec();
        Self { status, head, body }
    }
}

/// A running `rprofd serve`.
pub struct Daemon {
    /// It.
    pub rprofd: Started,
    /// Its first TCP address.
    pub address: SocketAddr,
    /// All URLs that it answers at.
    pub urls: Vec<String>,
    /// Its socket.
    pub socket: PathBuf,
    dir: PathBuf,
}

impl Daemon {
    /// Starts it in `dir`, at a port that is free, and waits until it answers.
    pub fn start(dir: &TestDir, args: &[&str]) -> Self {
        Self::started(dir, Rprofd::bare(binary(), dir).args(["serve"]).args(args))
    }

    /// The same with a command line that ends behind `serve` and more options.
    pub fn started(dir: &TestDir, rprofd: Rprofd) -> Self {
        let socket = dir.join("rprofd.sock");
        let listen = format!("127.0.0.1:0,unix:{}", socket.display());
        let mut rprofd = rprofd.args(["--listen", &listen]).start();
        let line = rprofd.wait_for_line("answering at ");
        let words = line.split_whitespace().map(|word| word.trim_end_matches(';').to_owned());
        let urls: Vec<String> = words.filter(|word| word.starts_with("http")).collect();
        let address = urls.iter().find_map(|url| url.split("://").nth(1)?.parse().ok());
        let address = address.unwrap_or_else(|| panic!("no address in {line}"));
        Self { rprofd, address, urls, socket, dir: dir.to_path_buf() }
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What it answers to a GET of `path`.
    pub fn get(&self, path: &str) -> Answer {
        get(self.address, path)
    }

    /// What it answers to these bytes.
    pub fn send(&self, request: &str) -> Answer {
        send(self.address, request)
    }

    /// A connection.
    pub fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    /// What the user `uid` gets, by TCP and by the socket.
    pub fn get_as(&self, uid: u32, path: &str) -> [Answer; 2] {
        let socket = self.socket.to_str().expect("UTF-8");
        let url = self.url(path);
        [vec![&*url], vec!["--unix-socket", socket, &url]].map(|args| curl(uid, &args))
    }

    /// The profile at `path`, as `go tool pprof` reads it from the URL.
    pub fn profile(&self, path: &str) -> Profile {
        let output = Command::new("go")
            .args(["tool", "pprof", "-proto", "-symbolize=none", "-output"])
            .arg(self.dir.join("fetched.pb.gz"))
            .arg(self.url(path))
            .env("PPROF_TMPDIR", &self.dir)
            .output()
            .expect("go");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{path}: {said}");
        Profile::read(&self.dir.join("fetched.pb.gz"))
    }
}

/// Waits until `get` is answered with `status`.
pub fn wait_for(status: u16, get: impl Fn() -> Answer) -> Answer {
    let begin = Instant::now();
    loop {
        let answer = get();
        if answer.status == status {
            return answer;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "{answer:?}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// A busy process of the user `uid` that is called `name`: `shares.c`, of which `burn_40` takes 40 %.
pub fn busy(uid: u32, dir: &TestDir, name: &str) -> Running {
    let program = Program::build("shares.c").copy_to(&dir.join(name));
    Running::start(program.command(&["300"]).uid(uid).gid(uid).stdout(Stdio::null()))
}

/// What `curl` gets as the user `uid`. URLs among `args` are not in its command line, which other answers
/// may show.
pub fn curl(uid: u32, args: &[&str]) -> Answer {
    let (urls, options): (Vec<&str>, Vec<&str>) =
        args.iter().partition(|it| it.starts_with("http://") || it.starts_with("https://"));
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--include", "--http1.1", "--max-time", "100", "--config", "-"])
        .args(options)
        .uid(uid)
        .gid(uid)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut curl = curl.spawn().expect("curl");
    let mut config = curl.stdin.take().expect("a pipe");
    for url in urls {
        writeln!(config, "url = \"{url}\"").expect("write");
    }
    drop(config);
    let output = curl.wait_with_output().expect("curl");
    Answer::read(&*output.stdout)
}

/// What is answered at `address` to a GET of `path`.
pub fn get(address: SocketAddr, path: &str) -> Answer {
    send(address, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
}

fn send(address: SocketAddr, request: &str) -> Answer {
    let mut stream = connect(address);
    // One that refuses need not read all.
    let _ = stream.write_all(request.as_bytes());
    Answer::read(stream)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a timeout");
    stream
}
