// Boost.Beast: one thread, callbacks, as its own examples do it.
//
//   with_beast MODE [--certificate PEM] [--level N]

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/ssl.hpp>
#include <boost/beast/websocket.hpp>
#include <boost/beast/websocket/ssl.hpp>

#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <set>
#include <string>
#include <type_traits>

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace websocket = beast::websocket;
using asio::ip::tcp;
using beast::error_code;

namespace {

struct Settings {
  bool broadcast = false;
  int level = -1;  // how hard to compress; -1: not at all
};

using Tls = beast::ssl_stream<beast::tcp_stream>;

template <class Stream>
class Session : public std::enable_shared_from_this<Session<Stream>> {
 public:
  template <class... Context>
  Session(const Settings& settings, tcp::socket&& socket, Context&... context)
      : settings_(settings), ws_(std::move(socket), context...) {}

  ~Session() { sessions().erase(this); }

  void run() {
    if constexpr (std::is_same_v<Stream, Tls>) {
      ws_.next_layer().async_handshake(
          asio::ssl::stream_base::server, [self = this->shared_from_this()](error_code error) {
            if (!error) self->accept();
          });
    } else {
      accept();
    }
  }

 private:
  static std::set<Session*>& sessions() {
    static std::set<Session*> all;
    return all;
  }

  void accept() {
    ws_.set_option(websocket::stream_base::timeout::suggested(beast::role_type::server));
    ws_.read_message_max(16 << 20);
    ws_.auto_fragment(false);
    if (settings_.level >= 0) {
      websocket::permessage_deflate deflate;
      deflate.server_enable = true;
      deflate.server_max_window_bits = deflate.client_max_window_bits = 12;
      deflate.compLevel = settings_.level;
      deflate.memLevel = 5;
      ws_.set_option(deflate);
    }
    ws_.async_accept([self = this->shared_from_this()](error_code error) {
      if (error) return;
      sessions().insert(self.get());
      self->read();
    });
  }

  void read() {
    ws_.async_read(buffer_, [self = this->shared_from_this()](error_code error, std::size_t) {
      if (error) return;
      if (self->settings_.broadcast) {
        self->broadcast();
      } else {
        self->echo();
      }
    });
  }

  void echo() {
    ws_.text(ws_.got_text());
    ws_.async_write(buffer_.data(),
                    [self = this->shared_from_this()](error_code error, std::size_t) {
                      if (error) return;
                      self->buffer_.consume(self->buffer_.size());
                      self->read();
                    });
  }

  void broadcast() {
    const auto message =
        std::make_shared<const std::string>(beast::buffers_to_string(buffer_.data()));
    buffer_.consume(buffer_.size());
    for (Session* session : sessions()) session->deliver(message);
    read();
  }

  void deliver(const std::shared_ptr<const std::string>& message) {
    queue_.push_back(message);
    if (queue_.size() == 1) write_first();
  }

  void write_first() {
    ws_.text(true);
    ws_.async_write(asio::buffer(*queue_.front()),
                    [self = this->shared_from_this()](error_code error, std::size_t) {
                      if (error) return;
                      self->queue_.pop_front();
                      if (!self->queue_.empty()) self->write_first();
                    });
  }

  const Settings& settings_;
  websocket::stream<Stream> ws_;
  beast::flat_buffer buffer_;
  std::deque<std::shared_ptr<const std::string>> queue_;
};

void accept(tcp::acceptor& acceptor, const Settings& settings, asio::ssl::context* context) {
  acceptor.async_accept([&acceptor, &settings, context](error_code error, tcp::socket socket) {
    if (!error) {
      socket.set_option(tcp::no_delay(true));
      if (context) {
        std::make_shared<Session<Tls>>(settings, std::move(socket), *context)->run();
      } else {
        std::make_shared<Session<beast::tcp_stream>>(settings, std::move(socket))->run();
      }
    }
    accept(acceptor, settings, context);
  });
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  settings.broadcast = argc > 1 && std::strcmp(argv[1], "broadcast") == 0;
  asio::ssl::context context(asio::ssl::context::tls_server);
  bool tls = false;
  for (int i = 2; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--certificate") == 0) {
      context.use_certificate_chain_file(argv[i + 1]);
      context.use_private_key_file(argv[i + 1], asio::ssl::context::pem);
      tls = true;
    } else if (std::strcmp(argv[i], "--level") == 0) {
      settings.level = std::atoi(argv[i + 1]);
    }
  }
  asio::io_context io(1);
  tcp::acceptor acceptor(io, {asio::ip::make_address("127.0.0.1"), 0});
  std::printf("port %d\n", acceptor.local_endpoint().port());
  std::fflush(stdout);
  accept(acceptor, settings, tls ? &context : nullptr);
  io.run();
}
