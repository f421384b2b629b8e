fn main() -> std::process::ExitCode {
    service::main(bid_processing::NAME, bid_processing::Config::read, bid_processing::run)
}
