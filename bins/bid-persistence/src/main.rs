fn main() -> std::process::ExitCode {
    service::main(bid_persistence::NAME, bid_persistence::Config::read, bid_persistence::run)
}
