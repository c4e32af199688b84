//! Flame graphs of the leader and of a follower under load: where a write's processor time goes,
//! function by function.
//!
//! `perf` takes the samples, with a copy of the stack each, as nothing here is built with frame
//! pointers. What it prints is folded and drawn here.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use inferno::collapse::Collapse;
use inferno::collapse::perf::Folder;
use inferno::flamegraph::{self, Options};

use crate::cells::load;
use crate::system::{System, done};

/// Whether samples can be taken on this machine, or what is to be done so that they can.
pub(crate) fn possible() -> Result<(), String> {
    let found = Command::new("perf").arg("--version").stdout(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    Err("perf is missing, so there are no flame graphs: apt-get install linux-perf (on Ubuntu \
         linux-tools-generic)"
        .to_owned())
}

/// Puts a load of writes on a cluster of ours and draws what the leader and a follower do meanwhile.
/// Gives the pictures.
pub(crate) fn draw(
    system: &System,
    clients: u32,
    seconds: u32,
    out: &Path,
) -> Result<Vec<PathBuf>, String> {
    fs::create_dir_all(out).map_err(|error| failed(out, &error))?;
    let processes = system.processes();
    let leader = system.leader()?;
    let follower = (leader + 1) % processes.len();
    let clients = clients.to_string();
    // Samples are taken in the middle of the load, when all that is slow once is done.
    let duration = format!("{}s", seconds + 2);
    let words = ["put", "--clients", &clients, "--duration", &duration];
    let (found, recorded) = thread::scope(|scope| {
        let load = scope.spawn(|| load(system, &words));
        thread::sleep(Duration::from_secs(1));
        let of = |node: usize, role| Recording::start(processes[node], role, seconds, system.dir());
        let recorded = [of(leader, "leader"), of(follower, "follower")];
        let recorded = recorded.map(|recording| recording.and_then(Recording::end));
        let found = load.join().unwrap_or_else(|_| Err("the load has panicked".to_owned()));
        (found, recorded)
    });
    let rate = found?["ops_per_s"].as_f64().unwrap_or(f64::NAN);
    let mut pictures = Vec::new();
    for (recorded, role) in recorded.into_iter().zip(["leader", "follower"]) {
        let title = format!("{role}, {clients} clients, {rate:.0} puts/s while it was watched");
        let picture = out.join(format!("flames-{role}.svg"));
        picture_of(&recorded?, &title, &picture)?;
        pictures.push(picture);
    }
    Ok(pictures)
}

/// `perf record` at work on a process.
struct Recording {
    perf: Child,
    file: PathBuf,
}

impl Recording {
    fn start(process: u32, role: &str, seconds: u32, dir: &Path) -> Result<Self, String> {
        let file = dir.join(format!("{role}.perf"));
        let mut command = Command::new("perf");
        command.args(["record", "--freq", FREQUENCY, "--call-graph", STACKS, "--pid"]);
        command.arg(process.to_string()).arg("--output").arg(&file);
        command.args(["--", "sleep", &seconds.to_string()]);
        let perf =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        Ok(Self { perf: perf.map_err(|error| format!("cannot start perf: {error}"))?, file })
    }

    /// Waits until it is done. Gives what it has recorded.
    fn end(self) -> Result<PathBuf, String> {
        let output = self.perf.wait_with_output().map_err(|error| format!("perf: {error}"))?;
        if output.status.success() {
            return Ok(self.file);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!(
            "perf takes no samples; is /proc/sys/kernel/perf_event_paranoid above 1? It says: {}",
            said.trim()
        ))
    }
}

/// Draws what was recorded.
fn picture_of(recorded: &Path, title: &str, picture: &Path) -> Result<(), String> {
    // Functions that were inlined would be looked up one by one, which takes minutes.
    let script = done(Command::new("perf").args(["script", "--no-inline", "-i"]).arg(recorded))?;
    let mut folded = Vec::new();
    let folding = Folder::default().collapse(&script.stdout[..], &mut folded);
    folding.map_err(|error| format!("perf script says what cannot be understood: {error}"))?;
    let file = File::create(picture).map_err(|error| failed(picture, &error))?;
    let mut options = Options::default();
    title.clone_into(&mut options.title);
    // Samples are weighed by the time since the one before.
    "ns".clone_into(&mut options.count_name);
    options.min_width = LEAST_PERCENT;
    flamegraph::from_reader(&mut options, &folded[..], BufWriter::new(file))
        .map_err(|error| format!("cannot draw {}: {error}", picture.display()))
}

fn failed(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("cannot write to {}: {error}", path.display())
}

/// Samples a second of each processor. No divisor of the frequency of anything else.
const FREQUENCY: &str = "499";

/// Found by what compilers write for exceptions, in a copy of so many bytes of the stack.
const STACKS: &str = "dwarf,32768";

/// Functions with less than this share of all samples are left out.
const LEAST_PERCENT: f64 = 0.3;
