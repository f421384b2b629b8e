fn main() -> std::process::ExitCode {
    service::main(websocket::NAME, websocket::Config::read, websocket::run)
}
