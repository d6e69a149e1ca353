//! Each `tests/broken/*.toml` and what is said of it, in the `.txt` beside it. `FT_UPDATE=1` writes the texts anew.
//!
//! A line `# --set KEY=TOML` at the top of a file is given as an override.

use std::path::Path;

use ft_policies::Config;

#[test]
fn every_broken_file_is_told_all_its_mistakes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broken");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|item| item.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    assert!(files.len() >= 10);
    let mut wrong = Vec::new();
    for path in files {
        let name = path.file_name().unwrap().to_str().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let sets: Vec<String> =
            text.lines().filter_map(|line| line.strip_prefix("# --set ")).map(str::to_owned).collect();
        // In a folder that exists nowhere, so that the texts are the same on every machine.
        let place = Path::new("/nowhere").join(name);
        let said = match Config::parse(&place, &bytes, &sets) {
            Ok(config) => panic!("{name} is accepted: {config:?}"),
            Err(mistakes) => format!("{mistakes}\n"),
        };
        let expected = path.with_extension("txt");
        if std::env::var_os("FT_UPDATE").is_some() {
            std::fs::write(&expected, &said).unwrap();
        }
        if std::fs::read_to_string(&expected).unwrap_or_default() != said {
            wrong.push(format!("{}: now it says\n{said}", expected.display()));
        }
    }
    assert!(wrong.is_empty(), "run again with FT_UPDATE=1 if this is right:\n{}", wrong.join("\n"));
}
