//! Credential helpers: programs named `docker-credential-NAME`.
//!
//! Runs one exchange with a helper. Helpers are untrusted: time and output are bounded.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::secret::Credentials;
use crate::oci::blocking::on_own_thread;
use crate::oci::error::{Error, HelperFault};

/// The most bytes read from a helper.
const MAX_REPLY: u64 = 1 << 20;

/// How long the output of a helper that has exited is read on.
const AFTER_EXIT: Duration = Duration::from_millis(200);

/// How many characters of a helper's output an error shows.
const MAX_MESSAGE: usize = 200;

/// A helper, and its name for the registry.
pub(super) struct Helper<'a> {
    pub(super) name: &'a str,
    pub(super) server: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Reply {
    username: Option<String>,
    secret: Option<String>,
}

/// The output of a helper that exited.
struct Output {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Helper<'_> {
    /// Runs the helper; `None` if it has no credentials for the registry.
    pub(super) fn get(
        &self,
        repository: &str,
        limit: Duration,
    ) -> Result<Option<Credentials>, Error> {
        let program = format!("docker-credential-{}", self.name);
        let failed = |source| Error::CredentialHelper {
            helper: program.clone(),
            registry: repository.split('/').next().unwrap_or(repository).to_owned(),
            source,
        };
        if self.name.contains('/') {
            return Err(failed(HelperFault::Run { source: io::ErrorKind::InvalidInput.into() }));
        }
        let output = on_own_thread(|| Ok::<_, Error>(run(&program, &self.server, limit)))?
            .map_err(failed)?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if !output.status.success() {
            let text = said(&[&*output.stdout, b"\n", &*output.stderr].concat());
            if text.contains("credentials not found") {
                return Ok(None);
            }
            let (status, message) = (output.status, shortened(&text));
            return Err(failed(HelperFault::Failed { status, message }));
        }
        let reply: Reply = serde_json::from_slice(&output.stdout).map_err(|_| {
            // Output that looks like JSON may contain a secret.
            let is_json = output.stdout.trim_ascii_start().starts_with(b"{");
            let shown = if is_json { &output.stderr } else { &output.stdout };
            failed(HelperFault::Reply { message: shortened(&said(shown)) })
        })?;
        let stated = |text: Option<String>| text.filter(|text| !text.is_empty());
        Ok(match (stated(reply.username), stated(reply.secret)) {
            (Some(user), Some(token)) if user == "<token>" => {
                Some(Credentials::IdentityToken { token })
            }
            (Some(user), Some(password)) => Some(Credentials::Password { user, password }),
            _ => None,
        })
    }
}

fn shortened(text: &str) -> String {
    let shown: String = text.chars().take(MAX_MESSAGE).collect();
    if shown.is_empty() { "nothing".to_owned() } else { format!("{shown:?}") }
}

/// Runs `program get` with `input`, and kills it at the limit.
fn run(program: &str, input: &str, limit: Duration) -> Result<Output, HelperFault> {
    let failed = |source| HelperFault::Run { source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let finished = runtime.map_err(failed)?.block_on(exchange(program, input, limit));
    finished.map_err(failed)?.ok_or(HelperFault::TimedOut { limit })
}

async fn exchange(program: &str, input: &str, limit: Duration) -> io::Result<Option<Output>> {
    // A file, not a pipe: a process that the helper leaves behind may keep a pipe open.
    let mut stderr = tempfile::tempfile()?;
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(stderr.try_clone()?)
        .kill_on_drop(true)
        .spawn()?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let conversation = async {
        if let Some(mut stdin) = stdin {
            // A helper may answer without reading.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        let mut reply = Vec::new();
        let Some(stdout) = stdout else { return Ok((reply, child.wait().await?)) };
        let mut stdout = stdout.take(MAX_REPLY);
        let exited = tokio::select! {
            biased;
            read = collect(&mut stdout, &mut reply) => read.map(|()| None),
            status = child.wait() => status.map(Some),
        };
        let status = match exited? {
            Some(status) => {
                // A process that the helper left behind may keep the pipe open.
                let rest = collect(&mut stdout, &mut reply);
                let _ = tokio::time::timeout(AFTER_EXIT, rest).await;
                status
            }
            None => {
                // A helper that writes more than is read gets a signal.
                drop(stdout);
                child.wait().await?
            }
        };
        Ok::<_, io::Error>((reply, status))
    };
    let finished = tokio::time::timeout(limit, conversation).await;
    let Ok(finished) = finished else {
        // Fails if it has exited meanwhile, which is fine.
        let _ = child.start_kill();
        child.wait().await?;
        return Ok(None);
    };
    let (stdout, status) = finished?;
    Ok(Some(Output { status, stdout, stderr: start_of(&mut stderr)? }))
}

/// Reads to the end. When it is dropped, everything that was read is in `reply`.
async fn collect(stdout: &mut (impl AsyncReadExt + Unpin), reply: &mut Vec<u8>) -> io::Result<()> {
    while stdout.read_buf(reply).await? > 0 {}
    Ok(())
}

fn start_of(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(MAX_MESSAGE as u64 * 4).read_to_end(&mut bytes)?;
    Ok(bytes)
}
