//! The memory functions that the compiler calls. `compiler_builtins` has none for this target.
//!
//! Written in assembly because LLVM would turn Rust loops back into calls of themselves. Short copies, the common
//! ones, are a few overlapping moves; long ones move words by `rep`, which engines do in one go. Everything a short
//! copy reads is read before it writes, and long ones read their last word first: so `memcpy` is right for
//! overlapping memory too where the destination is the lower one, which `memmove` uses.

core::arch::global_asm!(
    r#"
    .text
    .globl memcpy
    .balign 16
memcpy:
    mov rax, rdi
    cmp rdx, 16
    jb 2f
    cmp rdx, 32
    ja 3f
    movups xmm0, [rsi]
    movups xmm1, [rsi + rdx - 16]
    movups [rdi], xmm0
    movups [rdi + rdx - 16], xmm1
    ret
2:  cmp edx, 8
    jb 4f
    mov rcx, [rsi]
    mov r8, [rsi + rdx - 8]
    mov [rdi], rcx
    mov [rdi + rdx - 8], r8
    ret
4:  cmp edx, 4
    jb 5f
    mov ecx, [rsi]
    mov r8d, [rsi + rdx - 4]
    mov [rdi], ecx
    mov [rdi + rdx - 4], r8d
    ret
5:  test edx, edx
    je 6f
    # 1 to 3 bytes: the first, the last and the middle one, some of which may be the same
    movzx ecx, byte ptr [rsi]
    movzx r8d, byte ptr [rsi + rdx - 1]
    mov r9d, edx
    shr r9d, 1
    movzx r10d, byte ptr [rsi + r9]
    mov [rdi], cl
    mov [rdi + r9], r10b
    mov [rdi + rdx - 1], r8b
6:  ret
3:  cmp rdx, 192
    ja 8f
    movups xmm1, [rsi + rdx - 16]
    lea r8, [rdi + rdx - 16]
9:  movups xmm0, [rsi]
    movups [rdi], xmm0
    add rsi, 16
    add rdi, 16
    cmp rdi, r8
    jb 9b
    movups [r8], xmm1
    ret
8:  mov r8, [rsi + rdx - 8]
    lea r9, [rdi + rdx - 8]
    mov rcx, rdx
    shr rcx, 3
    rep movsq
    mov [r9], r8
    ret

    .globl memmove
    .balign 16
memmove:
    mov rcx, rdi
    sub rcx, rsi
    cmp rcx, rdx
    jae memcpy
    cmp rdx, 32
    jbe memcpy
    # overlapping, the destination higher: words from the end; the first word is read before it can be overwritten
    mov rax, rdi
    mov r8, [rsi]
2:  mov rcx, [rsi + rdx - 8]
    mov [rdi + rdx - 8], rcx
    sub rdx, 8
    cmp rdx, 8
    ja 2b
    mov [rdi], r8
    ret

    .globl memset
    .balign 16
memset:
    mov r9, rdi
    movzx eax, sil
    movabs rcx, 0x0101010101010101
    imul rax, rcx
    cmp rdx, 8
    jb 2f
    mov [rdi + rdx - 8], rax
    mov rcx, rdx
    shr rcx, 3
    rep stosq
    mov rax, r9
    ret
2:  test edx, edx
    je 4f
3:  mov [rdi + rdx - 1], al
    dec edx
    jne 3b
4:  mov rax, r9
    ret

    .globl memcmp
    .globl bcmp
    .balign 16
memcmp:
bcmp:
    cmp rdx, 8
    jb 3f
2:  mov rax, [rdi]
    mov rcx, [rsi]
    cmp rax, rcx
    jne 5f
    add rdi, 8
    add rsi, 8
    sub rdx, 8
    cmp rdx, 8
    jae 2b
3:  test edx, edx
    je 6f
4:  movzx eax, byte ptr [rdi]
    movzx ecx, byte ptr [rsi]
    sub eax, ecx
    jne 7f
    inc rdi
    inc rsi
    dec edx
    jne 4b
6:  xor eax, eax
7:  ret
5:  bswap rax
    bswap rcx
    cmp rax, rcx
    sbb eax, eax
    or eax, 1
    ret

    .globl strlen
strlen:
    xor eax, eax
2:  cmp byte ptr [rdi + rax], 0
    je 3f
    inc rax
    jmp 2b
3:  ret
"#
);

// `core` and `alloc` come compiled for unwinding, and what of them is not inlined away refers to the unwinder. A panic
// never unwinds here: reaching one of these is a fault.
core::arch::global_asm!(
    r#"
    .text
    .globl rust_eh_personality
    .globl _Unwind_Resume
rust_eh_personality:
_Unwind_Resume:
    ud2
"#
);
