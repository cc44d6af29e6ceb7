//! The cheapest programs that there are: static, without libc.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::measure::Outcome;

/// Builds a program that ends at once.
pub(crate) fn make_no_op(dir: &Path) -> Outcome<PathBuf> {
    let file = dir.join("no_op");
    make(&file, "")?;
    Ok(file)
}

/// Builds a program that answers with what it is sent, up to 256 bytes.
pub(crate) fn make_echo(args: &[String]) -> Outcome<()> {
    let [file] = args else {
        return Err("usage: callback_cost program FILE".into());
    };
    let read_and_write = match std::env::consts::ARCH {
        "x86_64" => {
            "sub $256, %rsp; xor %eax, %eax; xor %edi, %edi; mov %rsp, %rsi; mov $256, %edx; \
             syscall; mov %eax, %edx; mov $1, %eax; mov $1, %edi; syscall;"
        }
        _ => {
            "sub sp, sp, #256; mov x8, #63; mov x0, #0; mov x1, sp; mov x2, #256; svc #0; \
             mov x2, x0; mov x8, #64; mov x0, #1; svc #0;"
        }
    };
    make(Path::new(file), read_and_write)
}

/// Builds a program that does this and ends.
fn make(file: &Path, instructions: &str) -> Outcome<()> {
    let exit = match std::env::consts::ARCH {
        "x86_64" => "mov $231, %eax; xor %edi, %edi; syscall",
        "aarch64" => "mov x8, #94; mov x0, #0; svc #0",
        other => return Err(format!("unknown architecture {other}").into()),
    };
    let source = file.with_extension("s");
    std::fs::write(
        &source,
        format!(".globl _start\n_start: {instructions} {exit}\n"),
    )?;
    let cc = &["-nostdlib", "-static", "-Wl,--build-id=none"];
    compile(&source, file, cc)
}

/// Has the C compiler make `file`.
pub(crate) fn compile(source: &Path, file: &Path, options: &[&str]) -> Outcome<()> {
    let mut cc = Command::new("cc");
    cc.args(options).arg("-o").args([file, source]);
    let status = cc.status().map_err(|error| format!("cc: {error}"))?;
    if !status.success() {
        return Err(format!("cc: {status}").into());
    }
    Ok(())
}
