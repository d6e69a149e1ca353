//! Which interpreter an instruction without a fast handler gets.

use iced_x86::{ConditionCode, Instruction, Mnemonic, OpKind};

use super::is_nop;
use crate::software::block::{Flow, Interpret};
use crate::software::cpu::{Cpu, MODE_SSE_OFF};
use crate::software::exec::{
    bits, control, descriptor, float, general, io, legacy, mmx, muldiv, sse, sse_float, sse_later, stack,
    string, system, transfer, x87, x87_transcendental, xstate,
};
use crate::software::fault::Fault;

fn nothing(_: &mut Cpu, _: &Instruction) -> Result<Flow, Fault> {
    Ok(Flow::Next)
}

/// True for instructions after which the mode or the mapping may differ, so that decoding on is in vain.
pub(super) fn ends_block(i: &Instruction) -> bool {
    use Mnemonic::*;
    let control = i.mnemonic() == Mov
        && (0..2).any(|n| {
            i.op_kind(n) == OpKind::Register && (i.op_register(n).is_cr() || i.op_register(n).is_dr())
        });
    control
        || matches!(
            i.mnemonic(),
            Hlt | Sti
                | Popf
                | Popfd
                | Popfq
                | In
                | Out
                | Rdtsc
                | Rdtscp
                | Rdmsr
                | Wrmsr
                | Lmsw
                | Clts
                | Invlpg
                | Invpcid
                | Ud2
        )
}

fn no_operands(i: &Instruction) -> bool {
    i.op_count() == 0 || i.op0_kind() != OpKind::Register
}

/// The interpreter of an instruction; for what is not implemented, one that notes it and raises #UD.
pub(super) fn select(i: &Instruction, mode: u8) -> Interpret {
    use Mnemonic::*;
    if i.is_invalid() {
        return general::undefined;
    }
    let mmx_with_xmm =
        (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Register && i.op_register(n).is_xmm());
    if let Some(run) = mmx::select(i) {
        let off = mmx_with_xmm && mode & MODE_SSE_OFF != 0;
        return if off { sse::forbidden } else { run };
    }
    let sse_op = sse_function(i);
    if let Some(run) = sse_op {
        return if mode & MODE_SSE_OFF != 0 { sse::forbidden } else { run };
    }
    let memory = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
    match i.mnemonic() {
        Mov => {
            let special = (0..2).find(|n| i.op_kind(*n) == OpKind::Register && !i.op_register(*n).is_gpr());
            match special {
                Some(n) if !i.op_register(n).is_segment_register() => control::mov_control,
                Some(0) => transfer::load_segment,
                Some(_) => transfer::store_segment,
                None => general::mov_offset,
            }
        }
        Nop if is_nop(i.code()) => nothing,
        Movzx | Movsx | Movsxd | Lea => memory_form(i),
        Add | Or | Adc | Sbb | And | Sub | Xor | Cmp | Test | Inc | Dec | Neg | Not | Rol | Ror | Rcl
        | Rcr | Shl | Sal | Shr | Sar | Xchg => general::rare_form,
        Mul => muldiv::mul,
        Imul if i.op_count() == 1 => muldiv::imul_wide,
        Imul => muldiv::imul_rare,
        Div => muldiv::div,
        Idiv => muldiv::idiv,
        Bt | Bts | Btr | Btc => bits::bit_test,
        Bsf | Bsr | Tzcnt | Lzcnt => bits::bit_scan,
        Popcnt => bits::popcnt,
        Shld | Shrd => bits::double_shift,
        Cmpxchg => general::cmpxchg,
        Cmpxchg8b | Cmpxchg16b => general::cmpxchg_pair,
        Xadd => general::xadd,
        Bswap => general::bswap,
        Crc32 => general::crc32,
        Cbw | Cwde | Cdqe | Cwd | Cdq | Cqo => general::widen,
        Clc | Stc | Cmc | Cld | Std | Lahf | Sahf => general::flag,
        Xlatb => general::xlat,
        Loop | Loope | Loopne | Jcxz | Jecxz | Jrcxz => general::count_branch,
        Movsb | Movsw | Movsd | Movsq if no_operands(i) => string::movs,
        Stosb | Stosw | Stosd | Stosq => string::stos,
        Lodsb | Lodsw | Lodsd | Lodsq => string::lods,
        Cmpsb | Cmpsw | Cmpsd | Cmpsq | Scasb | Scasw | Scasd | Scasq => string::compare_string,
        Insb | Insw | Insd => string::ins,
        Outsb | Outsw | Outsd => string::outs,
        Push => stack::push,
        Pop if i.op0_kind() == OpKind::Register && i.op0_register().is_segment_register() => {
            transfer::load_segment
        }
        Pop => stack::pop,
        Pusha | Pushad => stack::pusha,
        Popa | Popad => stack::popa,
        Pushf | Pushfd | Pushfq => stack::pushf,
        Popf | Popfd | Popfq => stack::popf,
        Enter => stack::enter,
        Leave => stack::leave,
        Call if is_far(i) => transfer::far_branch,
        Jmp if is_far(i) => transfer::far_branch,
        Call => stack::call,
        Jmp => stack::jump,
        Ret => stack::ret,
        Retf => transfer::ret_far,
        Int | Int1 | Int3 | Into | Ud0 | Ud1 | Ud2 => transfer::interrupt,
        Iret | Iretd | Iretq => transfer::iret,
        Syscall => transfer::syscall,
        Sysret | Sysretq => transfer::sysret,
        Ltr | Lldt => transfer::load_system_segment,
        Str | Sldt => transfer::store_system_segment,
        Sysenter => transfer::sysenter,
        Sysexit | Sysexitq => transfer::sysexit,
        Lar | Lsl => descriptor::rights_and_limit,
        Verr | Verw => descriptor::verify,
        Arpl => descriptor::adjust_level,
        Aaa | Aas => legacy::adjust_ascii,
        Aam | Aad => legacy::adjust_product,
        Daa | Das => legacy::adjust_decimal,
        Salc => legacy::carry_to_al,
        Bound => legacy::bound,
        Lds | Les | Lfs | Lgs | Lss => legacy::load_pointer,
        Cli => system::cli,
        Sti => system::sti,
        Hlt => system::hlt,
        Cpuid => system::cpuid,
        Rdtsc | Rdtscp => system::rdtsc,
        Rdpid => system::rdpid,
        Rdpmc => system::rdpmc,
        Lgdt | Lidt => system::load_table,
        Sgdt | Sidt => system::store_table,
        Invlpg => system::invlpg,
        Invpcid => system::invpcid,
        Wbinvd | Invd => system::cache,
        Clts => system::clts,
        Clac | Stac => system::access_check,
        Swapgs => system::swapgs,
        Rdfsbase | Rdgsbase | Wrfsbase | Wrgsbase => system::segment_base,
        Clflush => system::flush_line,
        Lmsw | Smsw => control::machine_status,
        Rdmsr => control::rdmsr,
        Wrmsr => control::wrmsr,
        In | Out => io::in_out,
        Fxsave | Fxsave64 => float::fxsave,
        Fxrstor | Fxrstor64 => float::fxrstor,
        Xsave | Xsave64 => xstate::save,
        Xrstor | Xrstor64 => xstate::restore,
        Xgetbv => xstate::get,
        Xsetbv => xstate::set,
        Fninit | Fnclex | Fldcw | Fnstcw | Fnstsw => float::x87_control,
        Wait => float::wait,
        Fnstenv | Fnsave => x87::store_environment,
        Fldenv | Frstor => x87::load_environment,
        Fneni | Fndisi | Fnsetpm => x87::obsolete,
        F2xm1 | Fyl2x | Fyl2xp1 | Fpatan | Fptan | Fsin | Fcos | Fsincos => x87_transcendental::function,
        Fst | Fstp | Fist | Fistp | Fisttp | Fbstp if memory => x87::to_memory,
        _ if x87::is_arithmetic(i) => {
            if memory {
                x87::from_memory
            } else {
                x87::on_registers
            }
        }
        _ if i.is_jcc_short_or_near() => general::short_branch,
        _ if i.condition_code() != ConditionCode::None && i.op_count() == 1 => general::set_if,
        _ if i.condition_code() != ConditionCode::None && i.op_count() == 2 => general::move_if,
        _ => general::unimplemented,
    }
}

fn memory_form(i: &Instruction) -> Interpret {
    if i.mnemonic() == Mnemonic::Lea { general::lea } else { general::extend }
}

fn is_far(i: &Instruction) -> bool {
    i.is_jmp_far() || i.is_jmp_far_indirect() || i.is_call_far() || i.is_call_far_indirect()
}

/// The interpreter of an SSE instruction, if it is one.
fn sse_function(i: &Instruction) -> Option<Interpret> {
    use Mnemonic::*;
    let xmm = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Register && i.op_register(n).is_xmm());
    if matches!(i.mnemonic(), Ldmxcsr | Stmxcsr) {
        return Some(float::mxcsr);
    }
    if i.mnemonic() == Movnti {
        return Some(sse::move_part);
    }
    if let Some(run) = sse_float::select(i) {
        return Some(run);
    }
    if !xmm {
        return None;
    }
    Some(match i.mnemonic() {
        Movd | Movq | Movss | Movsd | Movlps | Movlpd | Movhps | Movhpd | Movhlps | Movlhps | Movmskps
        | Movmskpd | Pmovmskb => sse::move_part,
        Pshufd | Pshuflw | Pshufhw | Shufps | Shufpd | Pslldq | Psrldq | Pinsrw | Pextrw => sse::shuffle,
        Movups | Movupd | Movdqu | Lddqu | Movaps | Movapd | Movdqa | Movntdq | Movntps | Movntpd => {
            sse::move_whole
        }
        _ if sse::is_packed(i) => sse::packed_operation,
        Maskmovdqu => sse::masked_store,
        _ => return Some(sse_later::select(i).unwrap_or(general::unimplemented)),
    })
}
