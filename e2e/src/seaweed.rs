//! One SeaweedFS for the whole test run: a real S3 server, with conditional writes.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::{rights, tools};

/// The access key that the server knows.
pub const ACCESS_KEY: &str = "bottomless-e2e";
/// Its secret.
pub const SECRET_KEY: &str = "bottomless-e2e-secret";

/// Another pair of the same identity, for keys that are rotated.
pub const SECOND_ACCESS_KEY: &str = "bottomless-e2e-second";
/// Its secret.
pub const SECOND_SECRET_KEY: &str = "bottomless-e2e-second-secret";

/// How long the server may take to answer its health check.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// A running server.
#[derive(Debug)]
pub struct Seaweed {
    address: SocketAddr,
    /// A shell that kills the server and removes its folder when this process, and with it the shell's input, ends.
    _guard: Child,
}

impl Seaweed {
    /// The server of this process, started at the first call.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn shared() -> &'static Self {
        static SERVER: OnceLock<Seaweed> = OnceLock::new();
        SERVER.get_or_init(Self::start)
    }

    /// Where it listens for S3.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn start() -> Self {
        // A port that was free a moment ago may be taken by another process: then the next try takes others.
        let mut log = String::new();
        for _ in 0..3 {
            match Self::try_start() {
                Ok(server) => return server,
                Err(e) => log = e,
            }
        }
        panic!("SeaweedFS doesn't start:\n{log}");
    }

    fn try_start() -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix("bottomless-seaweed-").tempdir().expect("a folder").keep();
        let config = folder.join("s3.json");
        let mut file = std::fs::File::create(&config).expect("the server's configuration");
        let documented = rights::documented();
        let users: String = documented.iter().map(|policy| format!(",{}", policy.identity())).collect();
        let policies: Vec<String> = documented.iter().map(rights::Policy::definition).collect();
        let policies = policies.join(",");
        // The anonymous identity serves the tests' own looks into the bucket; what a test signs is still verified.
        write!(
            file,
            r#"{{"identities":[
              {{"name":"e2e","credentials":[{{"accessKey":"{ACCESS_KEY}","secretKey":"{SECRET_KEY}"}},
                {{"accessKey":"{SECOND_ACCESS_KEY}","secretKey":"{SECOND_SECRET_KEY}"}}],
                "actions":["Admin","Read","Write","List","Tagging"]}},
              {{"name":"anonymous","actions":["Admin","Read","Write","List","Tagging"]}}{users}],
              "policies":[{policies}]}}"#
        )
        .expect("the server's configuration");
        let data = folder.join("data");
        std::fs::create_dir(&data).expect("the server's data folder");

        let ports = free_ports(8);
        let log = folder.join("log");
        let mut weed = vec![
            tools::tool("weed").display().to_string(),
            "server".to_owned(),
            format!("-dir={}", data.display()),
            "-ip=127.0.0.1".to_owned(),
            "-ip.bind=127.0.0.1".to_owned(),
            "-master.telemetry=false".to_owned(),
            "-master.volumeSizeLimitMB=1024".to_owned(),
            "-volume.max=400".to_owned(),
            "-volume.preStopSeconds=0".to_owned(),
            "-filer".to_owned(),
            format!("-filer.localSocket={}", folder.join("filer.sock").display()),
            "-s3".to_owned(),
            format!("-s3.config={}", config.display()),
            "-s3.autoCreateBucket=false".to_owned(),
            "-s3.port.iceberg=0".to_owned(),
            "-s3.port.lance=0".to_owned(),
        ];
        let names = ["master", "volume", "filer", "s3"];
        for (name, pair) in names.iter().zip(ports.chunks(2)) {
            weed.push(format!("-{name}.port={}", pair[0]));
            weed.push(format!("-{name}.port.grpc={}", pair[1]));
        }
        let mut guard = Command::new("/bin/sh")
            .arg("-c")
            .arg(r#"log=$1; folder=$2; shift 2; "$@" >"$log" 2>&1 & weed=$!; read -r _; kill -9 $weed; rm -rf "$folder""#)
            .arg("guard")
            .arg(&log)
            .arg(&folder)
            .args(&weed)
            // A store of certificates set for other programs makes the AWS parts of the server fail.
            .env_remove("AWS_CA_BUNDLE")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start /bin/sh");

        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports[6]));
        let started = Instant::now();
        while started.elapsed() < START_DEADLINE {
            if healthy(address) {
                return Ok(Self { address, _guard: guard });
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        drop(guard.stdin.take());
        let _ = guard.wait();
        Err(text)
    }
}

fn healthy(address: SocketAddr) -> bool {
    if TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
        return false;
    }
    // The S3 part answers before the volumes can be written: only a stored object proves that it is ready.
    let put = |path: &str, body: &str| {
        ureq::put(format!("http://{address}{path}"))
            .config()
            .timeout_global(Some(Duration::from_secs(5)))
            .build()
            .send(body)
            .is_ok()
    };
    // The bucket may be there from the last try.
    let _ = put("/ready", "");
    put("/ready/probe", "ready")
}

/// Ports that nobody listens on now.
fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> =
        (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port")).collect();
    listeners.iter().map(|l| l.local_addr().expect("its address").port()).collect()
}
