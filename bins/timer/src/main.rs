fn main() -> std::process::ExitCode {
    service::main(timer::NAME, timer::Config::read, timer::run)
}
