//! `cargo xtask kvm-probe`: whether this machine's `/dev/kvm` runs a guest. It is a loop in long mode that adds numbers up, tells
//! the sum by a port and in memory, and halts. `--hold` runs none: it keeps a virtual machine for as long as it lives.

use std::time::Instant;

use kvm_bindings::{kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit};
use vm_memory::{Bytes as _, MmapRegion, VolatileMemory as _};

/// Guest memory: one large page, which maps itself.
const MEMORY: usize = 2 << 20;
/// Page tables, code and result in it.
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const DIRECTORY: u64 = 0x3000;
const CODE: u64 = 0x8000;
const RESULT: u64 = 0x9000;
/// Present, writable, accessed, dirty; and, in the directory, a large page (Intel SDM volume 3, 5.5.4).
const TABLE: u64 = 0x63;
const LARGE_PAGE: u64 = TABLE | 0x80;
const PORT: u16 = 0x3F8;
/// Rounds of the loop, of three instructions each.
const ROUNDS: u64 = 100_000_000;

/// Runs it, and says how fast it was.
pub(crate) fn run() -> Result<(), String> {
    let failed = |what: &'static str| move |error: kvm_ioctls::Error| format!("/dev/kvm: {what}: {error}");
    let kvm = Kvm::new().map_err(failed("opening it"))?;
    let vm = kvm.create_vm().map_err(failed("creating a virtual machine"))?;
    let memory = MmapRegion::<()>::new(MEMORY).map_err(|error| format!("guest memory: {error}"))?;
    let write = |bytes: &[u8], at: u64| {
        let slice = memory.as_volatile_slice();
        slice.write_slice(bytes, at as usize).map_err(|error| format!("guest memory at {at:#x}: {error}"))
    };
    write(&(PDPT | TABLE).to_le_bytes(), PML4)?;
    write(&(DIRECTORY | TABLE).to_le_bytes(), PDPT)?;
    write(&LARGE_PAGE.to_le_bytes(), DIRECTORY)?;
    write(&code(), CODE)?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: memory.as_ptr() as u64,
    };
    // SAFETY: the region is the mapping that `memory` owns, and `memory` outlives `vm`, which is dropped before it.
    unsafe { vm.set_user_memory_region(region) }.map_err(failed("giving it memory"))?;
    let mut vcpu = vm.create_vcpu(0).map_err(failed("creating a CPU"))?;
    let mut sregs = vcpu.get_sregs().map_err(failed("reading registers"))?;
    sregs.cr3 = PML4;
    // PAE; PE, ET, NE, WP, PG; LME and LMA.
    (sregs.cr4, sregs.cr0, sregs.efer) = (0x20, 0x8001_0031, 0x500);
    let flat = |kind, l, db| kvm_segment {
        limit: u32::MAX,
        selector: if l == 1 { 8 } else { 16 },
        type_: kind,
        present: 1,
        s: 1,
        l,
        db,
        g: 1,
        ..kvm_segment::default()
    };
    sregs.cs = flat(11, 1, 0);
    let data = flat(3, 0, 1);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    vcpu.set_sregs(&sregs).map_err(failed("setting registers"))?;
    let regs = kvm_regs { rip: CODE, rcx: ROUNDS, rflags: 2, ..kvm_regs::default() };
    vcpu.set_regs(&regs).map_err(failed("setting registers"))?;

    let started = Instant::now();
    match vcpu.run().map_err(failed("running"))? {
        VcpuExit::IoOut(PORT, [byte]) if *byte == sum() as u8 => {}
        other => return Err(format!("/dev/kvm: the guest was to write to a port: {other:?}")),
    }
    let took = started.elapsed();
    match vcpu.run().map_err(failed("running"))? {
        VcpuExit::Hlt => {}
        other => return Err(format!("/dev/kvm: the guest was to halt: {other:?}")),
    }
    let mut told = [0; 8];
    let slice = memory.as_volatile_slice();
    slice.read_slice(&mut told, RESULT as usize).map_err(|error| format!("guest memory: {error}"))?;
    let told = u64::from_le_bytes(told);
    if told != sum() {
        return Err(format!("/dev/kvm: the guest computed {told} instead of {}", sum()));
    }
    drop((vcpu, vm));
    let speed = (3 * ROUNDS) as f64 / took.as_secs_f64() / 1e6;
    println!("/dev/kvm runs a guest: {speed:.0} million instructions per second");
    Ok(())
}

/// Makes a virtual machine, says so, and keeps it until something ends this process.
pub(crate) fn hold() -> Result<(), String> {
    let failed = |what: &'static str| move |error: kvm_ioctls::Error| format!("/dev/kvm: {what}: {error}");
    let kvm = Kvm::new().map_err(failed("opening it"))?;
    let vm = kvm.create_vm().map_err(failed("creating a virtual machine"))?;
    // A CPU whose interrupt controller is in user space, as ft-vm's: that is counted too.
    let _vcpu = vm.create_vcpu(0).map_err(failed("creating a CPU"))?;
    println!("a virtual machine is held");
    loop {
        std::thread::park();
    }
}

fn sum() -> u64 {
    ROUNDS * (ROUNDS + 1) / 2
}

fn code() -> Vec<u8> {
    let mut code = vec![
        0x31, 0xC0, // xor eax, eax
        0x48, 0x01, 0xC8, // add rax, rcx
        0x48, 0xFF, 0xC9, // dec rcx
        0x75, 0xF8, // jnz, to the add
        0x48, 0x89, 0x04, 0x25, // mov [RESULT], rax
    ];
    code.extend((RESULT as u32).to_le_bytes());
    code.extend([0x66, 0xBA]); // mov dx, PORT
    code.extend(PORT.to_le_bytes());
    code.extend([0xEE, 0xF4]); // out dx, al; hlt
    code
}
