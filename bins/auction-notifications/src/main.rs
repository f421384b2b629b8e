fn main() -> std::process::ExitCode {
    service::main(auction_notifications::NAME, auction_notifications::Config::read, auction_notifications::run)
}
