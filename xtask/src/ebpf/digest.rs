//! What an object was made from: `profiler-ebpf/prebuilt/digest.toml`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};
use toml::{Table, Value};

use super::build::{self, Object};

/// The package whose sources and dependencies count.
const PACKAGE: &str = "profiler-ebpf";

/// Digests of inputs and outputs, and the tools between them.
pub(super) struct Digest {
    /// What is compiled: a name for messages → SHA-256.
    inputs: BTreeMap<String, String>,
    /// What compiled it.
    pub(super) tools: ToolVersions,
    /// File name under `prebuilt/` → SHA-256.
    objects: BTreeMap<String, String>,
}

/// What the tools answer to `--version`.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ToolVersions {
    /// The compiler.
    pub(super) rustc: String,
    /// bpf-linker.
    pub(super) linker: String,
    /// llvm-objcopy.
    pub(super) stripper: String,
}

impl Digest {
    /// Digests the checkout at `root` and the `objects`.
    pub(super) fn of(root: &Path, objects: &[Object], tools: ToolVersions) -> Result<Self> {
        let inputs = [
            ("sources", sources(root)?),
            ("manifests", manifests(root)?),
            ("dependencies", dependencies(root)?),
        ];
        Ok(Self {
            inputs: inputs.map(|(name, sum)| (name.to_owned(), sum)).into(),
            tools,
            objects: objects
                .iter()
                .map(|object| {
                    (build::file_name(object.arch), hex(Sha256::new_with_prefix(&object.bytes)))
                })
                .collect(),
        })
    }

    /// Reads what [`Digest::write`] wrote.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let path = path(root);
        let table = read_toml(&path)?;
        let section = |name: &str| -> Result<BTreeMap<String, String>> {
            let section = table.get(name).and_then(Value::as_table);
            let section = section.with_context(|| format!("{}: no [{name}]", path.display()))?;
            section
                .iter()
                .map(|(key, value)| {
                    let value = value.as_str().with_context(|| format!("{name}.{key}"))?;
                    Ok((key.clone(), value.to_owned()))
                })
                .collect()
        };
        let mut tools = section("tools")?;
        let mut tool = |name: &str| {
            tools.remove(name).with_context(|| format!("{}: no tools.{name}", path.display()))
        };
        Ok(Self {
            inputs: section("inputs")?,
            tools: ToolVersions {
                rustc: tool("rustc")?,
                linker: tool("linker")?,
                stripper: tool("stripper")?,
            },
            objects: section("objects")?,
        })
    }

    /// Writes `digest.toml`.
    pub(super) fn write(&self, root: &Path) -> Result<()> {
        let Self { inputs, tools: ToolVersions { rustc, linker, stripper }, objects } = self;
        let mut text = String::from("# Written by `cargo xtask ebpf build`.\n\n[inputs]\n");
        for (name, sum) in inputs {
            writeln!(text, "{name} = \"{sum}\"")?;
        }
        write!(text, "\n[tools]\nrustc = \"{rustc}\"\nlinker = \"{linker}\"\n")?;
        write!(text, "stripper = \"{stripper}\"\n\n[objects]\n")?;
        for (name, sum) in objects {
            writeln!(text, "\"{name}\" = \"{sum}\"")?;
        }
        fs::write(path(root), text).with_context(|| path(root).display().to_string())
    }

    /// What of `current` is not as recorded, if anything.
    pub(super) fn difference(&self, current: &Self) -> Option<String> {
        for (name, sum) in &current.inputs {
            if self.inputs.get(name) != Some(sum) {
                return Some(format!("the BPF object is older than its {name}"));
            }
        }
        for (name, sum) in &current.objects {
            if self.objects.get(name) != Some(sum) {
                return Some(format!("{name} is not the object that digest.toml is of"));
            }
        }
        None
    }
}

impl ToolVersions {
    /// Which tool of `present` is another than recorded, if any.
    pub(super) fn difference(&self, present: &Self) -> Option<String> {
        let pairs = [
            (&self.rustc, &present.rustc),
            (&self.linker, &present.linker),
            (&self.stripper, &present.stripper),
        ];
        let (recorded, present) =
            pairs.into_iter().find(|(recorded, present)| recorded != present)?;
        Some(format!("the object was built with “{recorded}”, here is “{present}”"))
    }
}

fn path(root: &Path) -> PathBuf {
    root.join("profiler-ebpf/prebuilt/digest.toml")
}

/// Names and contents under `profiler-ebpf/src/`.
fn sources(root: &Path) -> Result<String> {
    let crate_dir = root.join(PACKAGE);
    let mut files = Vec::new();
    collect_files(&crate_dir.join("src"), &mut files)?;
    if crate_dir.join("build.rs").exists() {
        files.push(crate_dir.join("build.rs"));
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let name = file.strip_prefix(&crate_dir)?.to_str().context("a name that is not UTF-8")?;
        let contents = fs::read(&file).with_context(|| file.display().to_string())?;
        update_field(&mut hash, name.as_bytes());
        update_field(&mut hash, &contents);
    }
    Ok(hex(hash))
}

/// The package's manifest, and what it takes from the workspace's.
fn manifests(root: &Path) -> Result<String> {
    let package = read_toml(&root.join(PACKAGE).join("Cargo.toml"))?;
    let workspace = read_toml(&root.join("Cargo.toml"))?;
    let find = |path: &[&str]| {
        let mut value = workspace.get(path[0])?;
        for key in &path[1..] {
            value = value.get(key)?;
        }
        Some(value)
    };
    let mut parts = vec![
        Value::Table(package.clone()).to_string(),
        format!("{:?}", find(&["workspace", "package"])),
        format!("{:?}", find(&["profile", "bpf"])),
        format!("{:?}", find(&["profile", "release"])),
    ];
    if let Some(dependencies) = package.get("dependencies").and_then(Value::as_table) {
        for name in dependencies.keys() {
            parts.push(format!("{:?}", find(&["workspace", "dependencies", name])));
        }
    }
    let mut hash = Sha256::new();
    for part in parts {
        update_field(&mut hash, part.as_bytes());
    }
    Ok(hex(hash))
}

/// The packages of `Cargo.lock` that [`PACKAGE`] needs, directly or not.
fn dependencies(root: &Path) -> Result<String> {
    let lock = read_toml(&root.join("Cargo.lock"))?;
    let packages =
        lock.get("package").and_then(Value::as_array).context("Cargo.lock: no packages")?;
    let text = |package: &Value, key: &str| {
        package.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };

    let mut wanted = vec![PACKAGE.to_owned()];
    let mut seen = BTreeSet::new();
    while let Some(want) = wanted.pop() {
        // "name", or "name version" where the lock file has several of that name.
        let mut words = want.split(' ');
        let (name, version) = (words.next(), words.next());
        let found = packages.iter().find(|package| {
            Some(text(package, "name").as_str()) == name
                && version.is_none_or(|version| text(package, "version") == version)
        });
        let Some(package) = found else { bail!("Cargo.lock: no package {want}") };
        let entry = ["name", "version", "checksum"].map(|key| text(package, key)).join(" ");
        if seen.insert(entry) {
            let needs = package.get("dependencies").and_then(Value::as_array);
            wanted.extend(needs.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned));
        }
    }
    let mut hash = Sha256::new();
    for entry in seen {
        update_field(&mut hash, entry.as_bytes());
    }
    Ok(hex(hash))
}

fn collect_files(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in dir.read_dir().with_context(|| dir.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect_files(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn read_toml(path: &Path) -> Result<Table> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    text.parse().with_context(|| path.display().to_string())
}

/// Its length first, so that no two lists of fields look the same.
fn update_field(hash: &mut Sha256, field: &[u8]) {
    hash.update((field.len() as u64).to_le_bytes());
    hash.update(field);
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
