#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bottomless_fuzz_targets::ltx_decode(data));
