// The load client of the benchmark: one thread, epoll, frames that were made before.
//
// It has to cost less than any server that it measures. So it masks nothing, compresses nothing and
// allocates nothing while it measures: it sends a block of finished frames over and over, and of
// what comes back it looks at the headers of frames, counts messages and checks their sizes.
//
//   client echo PORT FRAMES      every connection keeps some messages in flight
//   client broadcast PORT FRAMES the first connection sends, all receive
//   client connect PORT FRAMES   connect, opening handshake, one Close each way, end of TCP
//   client hold PORT FRAMES      one message to and fro on each connection, then silence
//
// FRAMES is a file of masked frames, each a whole message. What was measured is printed as one line
// of JSON. Anything unexpected is said on standard error, and ends it.

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#ifdef WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#endif

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kReadSize = 1 << 20;
constexpr size_t kWriteSize = 256 << 10;
constexpr uint8_t kClose = 8;
constexpr uint8_t kPing = 9;

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "load client: %s\n", what.c_str());
  std::exit(1);
}

[[noreturn]] void fail_errno(const char* what) {
  fail(std::string(what) + ": " + std::strerror(errno));
}

struct Options {
  std::string mode;
  int port = 0;
  std::string frames;
  size_t connections = 1;
  uint64_t in_flight = 1;
  double warm_up = 0.1;
  double seconds = 0.5;
  int server = 0;           // its process, of which the CPU time is read
  bool tls = false;
  bool raw = false;         // plain TCP: no handshake, and the bytes come back as they are
  bool compressed = false;  // messages that come back have sizes of their own
  std::string offer;        // Sec-WebSocket-Extensions
};

// The header of a frame, once it is there as a whole (RFC 6455 section 5.2).
struct Header {
  size_t size = 0;
  uint64_t length = 0;
  uint8_t first = 0;

  static bool parse(const uint8_t* data, size_t available, Header& header) {
    if (available < 2) return false;
    const uint8_t bits = data[1] & 0x7F;
    const size_t extended = bits == 126 ? 2 : bits == 127 ? 8 : 0;
    const size_t size = 2 + extended + (data[1] & 0x80 ? 4 : 0);
    if (available < size) return false;
    uint64_t length = extended ? 0 : bits;
    for (size_t i = 0; i < extended; i++) length = length << 8 | data[2 + i];
    header = {size, length, data[0]};
    return true;
  }
};

// What is sent, over and over: frames, each a message, and where each of them ends.
struct Block {
  std::vector<uint8_t> bytes;
  std::vector<uint64_t> ends;
  std::vector<uint64_t> sizes;

  explicit Block(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) fail("can not read " + path);
    bytes.assign(std::istreambuf_iterator<char>(file), {});
    Header header;
    for (size_t at = 0; at < bytes.size();) {
      if (!Header::parse(&bytes[at], bytes.size() - at, header)) fail("a header is cut off");
      at += header.size + header.length;
      ends.push_back(at);
      sizes.push_back(header.length);
    }
    if (ends.empty() || ends.back() != bytes.size()) fail("a frame is cut off");
  }

  // The place in the endless stream at which this many messages have been sent.
  uint64_t end_of(uint64_t messages) const {
    if (messages == 0) return 0;
    const uint64_t last = messages - 1;
    return last / ends.size() * bytes.size() + ends[last % ends.size()];
  }
};

// Finds the ends of messages in what arrives, however it was cut.
class Receiver {
 public:
  uint64_t messages = 0;
  bool closed = false;

  void feed(const uint8_t* data, size_t size, const Block& block, const Options& options) {
    while (size) {
      if (left_) {
        const uint64_t taken = std::min<uint64_t>(left_, size);
        left_ -= taken;
        data += taken;
        size -= taken;
        if (!left_) end_frame(block, options);
        continue;
      }
      Header header;
      size_t used;
      if (!have_ && Header::parse(data, size, header)) {
        used = header.size;
      } else {
        used = std::min(sizeof(head_) - have_, size);
        std::memcpy(head_ + have_, data, used);
        if (!Header::parse(head_, have_ + used, header)) {
          have_ += used;
          return;
        }
        used = header.size - have_;
        have_ = 0;
      }
      data += used;
      size -= used;
      first_ = header.first;
      left_ = header.length;
      if ((first_ & 0x0F) < kClose) length_ += header.length;
      if (!left_) end_frame(block, options);
    }
  }

 private:
  void end_frame(const Block& block, const Options& options) {
    const uint8_t opcode = first_ & 0x0F;
    if (opcode == kClose) {
      closed = true;
    } else if (opcode < kClose && (first_ & 0x80)) {
      if (!options.compressed && length_ != block.sizes[messages % block.sizes.size()])
        fail("message " + std::to_string(messages) + " has " + std::to_string(length_) + " bytes");
      length_ = 0;
      messages++;
    } else if (opcode == kPing) {
      fail("the server pings: it must not while this short measurement runs");
    }
  }

  uint8_t head_[14];
  size_t have_ = 0;
  uint8_t first_ = 0;
  uint64_t left_ = 0;
  uint64_t length_ = 0;
};

#ifdef WITH_TLS
SSL_CTX* tls_context() {
  static SSL_CTX* context = [] {
    SSL_CTX* made = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_mode(made, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    return made;
  }();
  return context;
}
#endif

enum class Stage { kConnecting, kTls, kRequesting, kOpen, kEnded };

struct Connection {
  int fd = -1;
  Stage stage = Stage::kConnecting;
  uint32_t interest = 0;
  std::string response;
  Receiver receiver;
  uint64_t sent = 0;
  bool close_sent = false;
#ifdef WITH_TLS
  SSL* ssl = nullptr;
#endif

  // Both return the bytes that were moved; 0 is the end when reading, and -1 "not now".
  ssize_t read(uint8_t* data, size_t size) {
#ifdef WITH_TLS
    if (ssl) {
      const int count = SSL_read(ssl, data, static_cast<int>(size));
      return count > 0 ? count : tls_outcome(count);
    }
#endif
    const ssize_t count = ::recv(fd, data, size, 0);
    if (count < 0 && errno == ECONNRESET) return 0;
    if (count < 0 && errno != EAGAIN) fail_errno("recv");
    return count;
  }

  ssize_t write(const uint8_t* data, size_t size) {
#ifdef WITH_TLS
    if (ssl) {
      const int count = SSL_write(ssl, data, static_cast<int>(size));
      return count > 0 ? count : tls_outcome(count);
    }
#endif
    const ssize_t count = ::send(fd, data, size, MSG_NOSIGNAL);
    if (count < 0 && errno != EAGAIN) fail_errno("send");
    return count;
  }

#ifdef WITH_TLS
  ssize_t tls_outcome(int count) {
    const int error = SSL_get_error(ssl, count);
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) return -1;
    ERR_clear_error();
    return 0;
  }
#endif
};

class Client {
 public:
  Client(const Options& options, const Block& block)
      : options_(options), block_(block), epoll_(epoll_create1(0)), buffer_(kReadSize) {
    request_ =
        "GET / HTTP/1.1\r\nHost: 127.0.0.1:" + std::to_string(options.port) +
        "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
    if (!options.offer.empty()) request_ += "Sec-WebSocket-Extensions: " + options.offer + "\r\n";
    request_ += "\r\n";
    received_.assign(std::max<uint64_t>(options.in_flight, 1), 0);
  }

  void run() {
    if (options_.mode == "connect") {
      for (size_t i = 0; i < options_.connections; i++) connections_.push_back(connect());
      measure();
      return;
    }
    while (open_ < options_.connections) {
      // Not all at once: a queue of half-open connections is not what is measured.
      while (connections_.size() < options_.connections && connections_.size() < open_ + 50)
        connections_.push_back(connect());
      poll();
    }
    started_ = true;
    if (options_.mode == "hold") {
      hold();
      return;
    }
    for (auto& connection : connections_) send(*connection);
    measure();
  }

 private:
  void measure() {
    started_ = true;
    poll_for(options_.warm_up);
    const uint64_t before = count_;
    const double cpu_before = cpu_seconds();
    const CpuTime server_before = server_cpu();
    const auto began = Clock::now();
    poll_for(options_.seconds);
    const double seconds = std::chrono::duration<double>(Clock::now() - began).count();
    const CpuTime server = server_cpu();
    std::printf(
        "{\"count\": %llu, \"seconds\": %.6f, \"client_cpu\": %.6f, "
        "\"server_user\": %.6f, \"server_system\": %.6f, \"unanswered\": %llu}\n",
        static_cast<unsigned long long>(count_ - before), seconds, cpu_seconds() - cpu_before,
        server.user - server_before.user, server.system - server_before.system,
        static_cast<unsigned long long>(unanswered_));
  }

  void hold() {
    for (auto& connection : connections_) send(*connection);
    while (count_ < connections_.size()) poll();
    std::printf("{\"count\": %zu}\n", connections_.size());
    std::fflush(stdout);
    std::getchar();
  }

  struct CpuTime {
    double user = 0;
    double system = 0;
  };

  // In seconds, in steps of a hundredth.
  CpuTime server_cpu() const {
    if (!options_.server) return {};
    std::ifstream file("/proc/" + std::to_string(options_.server) + "/stat");
    std::string text((std::istreambuf_iterator<char>(file)), {});
    std::istringstream fields(text.substr(text.rfind(')') + 2));
    std::string skipped;
    for (int i = 0; i < 11; i++) fields >> skipped;
    CpuTime time;
    fields >> time.user >> time.system;
    const double ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
    return {time.user / ticks, time.system / ticks};
  }

  static double cpu_seconds() {
    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    const auto seconds = [](timeval time) { return time.tv_sec + time.tv_usec * 1e-6; };
    return seconds(usage.ru_utime) + seconds(usage.ru_stime);
  }

  std::unique_ptr<Connection> connect() {
    auto connection = std::make_unique<Connection>();
    connection->fd = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (connection->fd < 0) fail_errno("socket");
    const int on = 1;
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(options_.port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(connection->fd, reinterpret_cast<sockaddr*>(&address), sizeof address) < 0 &&
        errno != EINPROGRESS)
      fail_errno("connect");
    epoll_event event{};
    connection->interest = event.events = EPOLLOUT;
    event.data.ptr = connection.get();
    epoll_ctl(epoll_, EPOLL_CTL_ADD, connection->fd, &event);
    return connection;
  }

  void want(Connection& connection, uint32_t interest) {
    if (connection.interest == interest) return;
    epoll_event event{};
    connection.interest = event.events = interest;
    event.data.ptr = &connection;
    epoll_ctl(epoll_, EPOLL_CTL_MOD, connection.fd, &event);
  }

  void poll_for(double seconds) {
    const auto began = Clock::now();
    while (std::chrono::duration<double>(Clock::now() - began).count() < seconds) poll();
  }

  void poll() {
    epoll_event events[512];
    const int count = epoll_wait(epoll_, events, 512, 5000);
    if (count < 0 && errno != EINTR) fail_errno("epoll_wait");
    if (count == 0) fail("the server has done nothing for 5 seconds");
    for (int i = 0; i < count; i++) handle(*static_cast<Connection*>(events[i].data.ptr));
    ended_.clear();
  }

  void handle(Connection& connection) {
    switch (connection.stage) {
      case Stage::kConnecting:
        begin(connection);
        break;
      case Stage::kTls:
        shake_hands(connection);
        break;
      case Stage::kRequesting:
        read_response(connection);
        break;
      case Stage::kOpen:
        receive(connection);
        break;
      case Stage::kEnded:
        break;
    }
  }

  void begin(Connection& connection) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(connection.fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) fail(std::string("connect: ") + std::strerror(error));
#ifdef WITH_TLS
    if (options_.tls) {
      connection.ssl = SSL_new(tls_context());
      SSL_set_fd(connection.ssl, connection.fd);
      connection.stage = Stage::kTls;
      shake_hands(connection);
      return;
    }
#endif
    request(connection);
  }

  void shake_hands(Connection& connection) {
#ifdef WITH_TLS
    const int outcome = SSL_connect(connection.ssl);
    if (outcome == 1) {
      request(connection);
    } else if (connection.tls_outcome(outcome) == -1) {
      want(connection, SSL_want_write(connection.ssl) ? EPOLLOUT : EPOLLIN);
    } else {
      fail("the TLS handshake failed");
    }
#else
    (void)connection;
    fail("built without OpenSSL");
#endif
  }

  void request(Connection& connection) {
    want(connection, EPOLLIN);
    if (options_.raw) {
      connection.stage = Stage::kOpen;
      opened(connection);
      return;
    }
    connection.stage = Stage::kRequesting;
    const auto* data = reinterpret_cast<const uint8_t*>(request_.data());
    if (connection.write(data, request_.size()) != static_cast<ssize_t>(request_.size()))
      fail("the request could not be sent at once");
  }

  void read_response(Connection& connection) {
    const ssize_t count = connection.read(buffer_.data(), buffer_.size());
    if (count == 0) fail("the server ended the connection instead of answering");
    if (count < 0) return;
    connection.response.append(reinterpret_cast<char*>(buffer_.data()), count);
    const size_t end = connection.response.find("\r\n\r\n");
    if (end == std::string::npos) return;
    if (connection.response.compare(0, 12, "HTTP/1.1 101") != 0)
      fail("the server refused: " + connection.response);
    if (end + 4 != connection.response.size()) fail("the server speaks first");
    if (options_.compressed &&
        connection.response.find("permessage-deflate") == std::string::npos)
      fail("the server does not compress");
    connection.response = std::string();
    connection.stage = Stage::kOpen;
    opened(connection);
  }

  void opened(Connection& connection) {
    open_++;
    if (options_.mode == "connect") send_close(connection);
  }

  void send_close(Connection& connection) {
    static const uint8_t frame[] = {0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE8};  // 1000, masked with zeros
    if (connection.write(frame, sizeof frame) != sizeof frame) fail("the Close could not be sent");
  }

  void receive(Connection& connection) {
    for (;;) {
      const ssize_t count = connection.read(buffer_.data(), buffer_.size());
      if (count < 0) break;
      if (count == 0) {
        end(connection);
        return;
      }
      const uint64_t before = connection.receiver.messages;
      connection.receiver.feed(buffer_.data(), count, block_, options_);
      if (connection.receiver.closed && options_.mode != "connect") fail("the server closed");
      account(before, connection.receiver.messages);
#ifdef WITH_TLS
      // What OpenSSL holds no epoll tells of; of a socket it does, and a second read would only
      // say that there is nothing.
      if (connection.ssl && SSL_pending(connection.ssl)) continue;
#endif
      break;
    }
    if (started_ && options_.mode != "connect") send(connection);
  }

  void account(uint64_t before, uint64_t after) {
    count_ += after - before;
    if (options_.mode != "broadcast") return;
    for (; before < after; before++) {
      uint64_t& receivers = received_[before % received_.size()];
      if (++receivers == connections_.size()) {
        receivers = 0;
        broadcasts_++;
        send(*connections_[0]);
      }
    }
  }

  // As much as may be in flight, as far as the kernel takes it.
  void send(Connection& connection) {
    if (options_.mode == "broadcast" && &connection != connections_[0].get()) return;
    if (options_.mode == "hold" && connection.receiver.messages) return;
    const uint64_t answered =
        options_.mode == "broadcast" ? broadcasts_ : connection.receiver.messages;
    const uint64_t allowed = block_.end_of(answered + options_.in_flight);
    while (connection.sent < allowed) {
      const uint64_t at = connection.sent % block_.bytes.size();
      const size_t size = std::min<uint64_t>(
          {allowed - connection.sent, block_.bytes.size() - at, kWriteSize});
      const ssize_t count = connection.write(&block_.bytes[at], size);
      if (count == 0) fail("the connection broke while sending");
      if (count < 0) {
        want(connection, EPOLLIN | EPOLLOUT);
        return;
      }
      connection.sent += count;
    }
    want(connection, EPOLLIN);
  }

  void end(Connection& connection) {
    if (options_.mode != "connect") fail("the server ended the connection");
    if (!connection.receiver.closed) unanswered_++;
    count_++;
    connection.stage = Stage::kEnded;
#ifdef WITH_TLS
    if (connection.ssl) SSL_free(connection.ssl);
#endif
    ::close(connection.fd);
    const auto place =
        std::find_if(connections_.begin(), connections_.end(),
                     [&](const auto& each) { return each.get() == &connection; });
    // Freed after this round of events, which may still name it.
    ended_.push_back(std::move(*place));
    *place = connect();
  }

  const Options& options_;
  const Block& block_;
  const int epoll_;
  std::vector<uint8_t> buffer_;
  std::string request_;
  std::vector<std::unique_ptr<Connection>> connections_;
  std::vector<std::unique_ptr<Connection>> ended_;
  std::vector<uint64_t> received_;  // of each broadcast in flight, by how many
  uint64_t broadcasts_ = 0;
  size_t open_ = 0;
  uint64_t count_ = 0;
  uint64_t unanswered_ = 0;  // Closes after which the server ended TCP without one
  bool started_ = false;
};

Options parse_arguments(int argc, char** argv) {
  if (argc < 4) fail("usage: client MODE PORT FRAMES [--option value ...]");
  Options options;
  options.mode = argv[1];
  options.port = std::atoi(argv[2]);
  options.frames = argv[3];
  for (int i = 4; i < argc; i++) {
    const std::string name = argv[i];
    const auto value = [&] {
      if (++i == argc) fail(name + " needs a value");
      return std::string(argv[i]);
    };
    if (name == "--connections") {
      options.connections = std::stoul(value());
    } else if (name == "--in-flight") {
      options.in_flight = std::stoull(value());
    } else if (name == "--warm-up") {
      options.warm_up = std::stod(value());
    } else if (name == "--seconds") {
      options.seconds = std::stod(value());
    } else if (name == "--server") {
      options.server = std::stoi(value());
    } else if (name == "--tls") {
      options.tls = true;
    } else if (name == "--raw") {
      options.raw = true;
    } else if (name == "--offer") {
      options.offer = value();
      options.compressed = true;
    } else {
      fail("unknown option " + name);
    }
  }
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = parse_arguments(argc, argv);
  const Block block(options.frames);
  Client(options, block).run();
}
