fn main() -> std::process::ExitCode {
    service::main(auction_management::NAME, auction_management::Config::read, auction_management::run)
}
