#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bottomless_engine::fuzzing::local_state(data));
