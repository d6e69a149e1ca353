//! Builds the guest programs: a nested cargo with flags of its own, because they run on no operating system.
//!
//! The images depend on nothing but the sources and the toolchain: neither on the profile of the outer build nor on
//! where the tree lies. They are built once for all profiles, in `ft-guest` beside the profiles' directories.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAMS: [&str; 3] = ["blk", "cpu", "kv"];
const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() {
    let manifest_dir = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    let programs = manifest_dir.join("programs");
    for input in ["Cargo.toml", "Cargo.lock", "link.ld", "blk", "blk-core", "cpu", "kv", "kv-core", "rt"] {
        println!("cargo::rerun-if-changed={}", programs.join(input).display());
    }
    // OUT_DIR is TARGET_DIR/PROFILE/build/ft-guests-HASH/out: images are shared by all profiles of one target dir.
    let target_dir = out_dir.ancestors().nth(4).expect("cargo's layout of OUT_DIR").join("ft-guest");

    let mut cargo = Command::new(env::var_os("CARGO").expect("set by cargo"));
    for (name, _) in env::vars_os() {
        let name_text = name.to_string_lossy();
        let prefixes = ["CARGO_PROFILE_", "CARGO_BUILD_", "CARGO_TARGET_", "CARGO_CFG_", "CARGO_FEATURE_"];
        let names = [
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "RUSTC",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "LLVM_PROFILE_FILE",
        ];
        if names.contains(&&*name_text) || prefixes.iter().any(|prefix| name_text.starts_with(prefix)) {
            cargo.env_remove(&name);
        }
    }
    cargo
        .current_dir(&programs)
        .args(["build", "--release", "--locked", "--target", TARGET, "--target-dir"])
        .arg(&target_dir)
        .args(PROGRAMS.iter().flat_map(|program| ["-p", program]))
        .env("CARGO_ENCODED_RUSTFLAGS", flags(&programs).join("\x1f"));
    let status = cargo.status().expect("cargo runs");
    assert!(status.success(), "building the guest programs: {status}");

    for program in PROGRAMS {
        let image = target_dir.join(TARGET).join("release").join(program);
        // A copy of our own: another outer build may replace the shared one at any time.
        let copy = out_dir.join(program);
        std::fs::copy(&image, &copy).unwrap_or_else(|error| panic!("{}: {error}", image.display()));
        println!("cargo::rustc-env=FT_GUEST_{}={}", program.to_uppercase(), copy.display());
    }
}

/// Flags of the guest's compiler.
fn flags(programs: &Path) -> Vec<String> {
    let mut flags: Vec<String> = [
        "-Crelocation-model=static",
        "-Ccode-model=kernel",
        // Interrupts use the current stack.
        "-Cno-redzone=yes",
        "-Cpanic=abort",
        "-Ctarget-cpu=x86-64",
        // Leaves only moves and logic of SSE: less for an engine to know.
        "-Cno-vectorize-loops",
        "-Cno-vectorize-slp",
        "-Clinker=rust-lld",
        "-Clinker-flavor=ld.lld",
        "-Clink-arg=-static",
        "-Clink-arg=--build-id=none",
        "-Clink-arg=-zmax-page-size=0x1000",
        "-Clink-arg=-znorelro",
        "-Cstrip=symbols",
    ]
    .map(String::from)
    .into();
    // Cargo runs the compiler in the workspace's directory.
    flags.push("-Clink-arg=-Tlink.ld".into());
    // Panic messages hold file names: they must not tell where the tree or the registry lies.
    flags.push(format!("--remap-path-prefix={}=guests", programs.display()));
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    if let Some(sources) = home.map(|home| home.join("registry/src")) {
        for registry in std::fs::read_dir(sources).into_iter().flatten().flatten() {
            flags.push(format!("--remap-path-prefix={}=registry", registry.path().display()));
        }
    }
    flags
}
