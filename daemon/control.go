package daemon

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/activated"
	"github.com/vhost-user-vsock/vhost-user-vsock/config"
	"github.com/vhost-user-vsock/vhost-user-vsock/hostsock"
)

// controlServer answers on the control socket.
type controlServer struct {
	http *httpServer
	file *hostsock.Listener // nil: the service manager's
	own  *hostsock.Registry
}

// listenControl makes the socket at path, for the program's own user alone, unless one
// was inherited; nobody is answered before its http is started. No guest reaches the
// socket.
func listenControl(inherited *activated.Socket, path string, own *hostsock.Registry) (*controlServer, error) {
	if inherited != nil {
		l, err := inherited.Listener()
		if err != nil {
			return nil, fmt.Errorf("--control: %w", err)
		}
		return &controlServer{http: newHTTPServer(l)}, nil
	}
	file, err := hostsock.Listen(path, hostsock.Options{
		Mode: 0o600, UID: config.Unchanged, GID: config.Unchanged,
		Type: unix.SOCK_STREAM, Backlog: backlog, Registry: own,
	})
	if err != nil {
		return nil, fmt.Errorf("--control: %w", err)
	}
	s := &controlServer{file: file, own: own}
	socket := os.NewFile(uintptr(file.Take()), path)
	defer socket.Close() // l has a copy
	l, err := net.FileListener(socket)
	if err != nil {
		return nil, gather(fmt.Errorf("--control: %w", err), s.unlink())
	}
	s.http = newHTTPServer(l)
	return s, nil
}

// close removes the socket and ends all requests.
func (s *controlServer) close() error { return gather(s.unlink(), s.http.finish()) }

// unlink removes the socket's name.
func (s *controlServer) unlink() error {
	if s.file == nil {
		return nil
	}
	s.own.Remove(s.file.Path)
	return s.file.Close()
}
