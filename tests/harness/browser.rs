//! What a browser shows of a page.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use crate::machine;

/// Names that distributions give to the one browser that prints what it shows.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// The document that the page at `url` has become, its scripts run and left out. On a machine without
/// a browser, which is said, the page as it was sent: scripts hold what they would show.
pub fn shown(dir: &Path, url: &str) -> String {
    let Some(browser) = BROWSERS.iter().find_map(|name| machine::find(name)) else {
        eprintln!("{url}: no browser here, so its scripts are not run");
        return output(Command::new("curl").args(["--silent", "--max-time", "60"]).arg(url));
    };
    let document = output(
        Command::new("timeout")
            .arg("100")
            .arg(browser)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000"])
            .arg(format!("--user-data-dir={}", dir.join("browser").display()))
            .args(["--dump-dom", url]),
    );
    without_scripts(&document)
}

fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("start a command");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {said}", output.status);
    text
}

fn without_scripts(document: &str) -> String {
    let mut parts = document.split("<script");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str(part.split_once("</script>").map_or("", |(_, rest)| rest));
    }
    text
}
