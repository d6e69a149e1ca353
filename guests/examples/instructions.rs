//! Lists the instructions of the guest images: iced `Code` names with how often each occurs, for those who write an
//! engine.

#[path = "../tests/image/mod.rs"]
mod image;

use std::collections::BTreeMap;

fn main() {
    for name in ft_guests::NAMES {
        let elf = ft_guests::builtin(name).expect("a listed name");
        let mut codes: BTreeMap<String, usize> = BTreeMap::new();
        let mut mnemonics = BTreeMap::new();
        let mut total = 0_usize;
        for instruction in image::instructions(elf) {
            let code = format!("{:?}", instruction.code());
            let prefix = match () {
                () if instruction.has_lock_prefix() => "LOCK ",
                () if instruction.has_rep_prefix() && instruction.is_string_instruction() => "REP ",
                () if instruction.has_repne_prefix() && instruction.is_string_instruction() => "REPNE ",
                () => "",
            };
            *codes.entry(format!("{prefix}{code}")).or_default() += 1;
            *mnemonics.entry(format!("{:?}", instruction.mnemonic())).or_insert(0_usize) += 1;
            total += 1;
        }
        println!(
            "{name}: {} bytes, {total} instructions, {} mnemonics, {} codes",
            elf.len(),
            mnemonics.len(),
            codes.len()
        );
        let mut codes: Vec<_> = codes.into_iter().collect();
        codes.sort_by_key(|(code, count)| (std::cmp::Reverse(*count), code.clone()));
        for (code, count) in codes {
            println!("{count:7} {code}");
        }
        println!();
    }
}
