package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Host programs use sockets of the kind that the guest's have.
const (
	stream    = "unix"
	seqpacket = "unixpacket"

	// seqpacketSuffix leads to the socket that takes the latter.
	seqpacketSuffix = "_seqpacket"
)

// sendBuffer lets the largest message (256 KiB) into a SOCK_SEQPACKET socket; the
// kernel doubles it.
const sendBuffer = 256 << 10

// Listen serves what the guest dials as the host's port.
func (d *Daemon) Listen(t TB, port uint32) *net.UnixListener {
	t.Helper()
	return d.listen(t, stream, port)
}

// ListenSeqpacket is Listen for a guest's SOCK_SEQPACKET sockets.
func (d *Daemon) ListenSeqpacket(t TB, port uint32) *net.UnixListener {
	t.Helper()
	return d.listen(t, seqpacket, port)
}

func (d *Daemon) listen(t TB, network string, port uint32) *net.UnixListener {
	t.Helper()
	config := net.ListenConfig{Control: control(network)}
	l, err := config.Listen(context.Background(), network, fmt.Sprintf("%s_%d", d.UDS, port))
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.UnixListener)
}

// control prepares a socket that is about to be used.
func control(network string) func(string, string, syscall.RawConn) error {
	if network == stream {
		return nil
	}
	return func(_, _ string, rc syscall.RawConn) error { return prepare(rc) }
}

// PrepareAccepted prepares a socket that a listener accepted, of either kind.
func PrepareAccepted(c *net.UnixConn) error {
	if c.LocalAddr().Network() == stream {
		return nil
	}
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return prepare(rc)
}

// prepare lets a SOCK_SEQPACKET socket send the largest messages and tell an empty
// message from the end of file. A listener passes on only the latter.
func prepare(rc syscall.RawConn) error {
	var result error
	err := rc.Control(func(fd uintptr) {
		result = errors.Join(
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer))
	})
	return errors.Join(err, result)
}

// handshakeLimit bounds the answer to a CONNECT line; the daemon gives up after 2 s.
const handshakeLimit = 10 * time.Second

// Dial connects to a port of the guest: "CONNECT port", answered by "OK number".
func (d *Daemon) Dial(port uint32) (*net.UnixConn, error) { return dial(stream, d.UDS, port) }

// DialSeqpacket is Dial for a port that takes SOCK_SEQPACKET; the two lines are a
// message each.
func (d *Daemon) DialSeqpacket(port uint32) (*net.UnixConn, error) {
	return dial(seqpacket, d.UDS+seqpacketSuffix, port)
}

// Insist dials, and some times more at end of file, as programs do: a guest on a busy
// machine may not answer within 2 s.
func Insist(dial func(port uint32) (*net.UnixConn, error), port uint32) (c *net.UnixConn, err error) {
	const times = 5
	for range times {
		if c, err = dial(port); !errors.Is(err, io.EOF) {
			break
		}
	}
	return c, err
}

func dial(network, path string, port uint32) (*net.UnixConn, error) {
	dialer := net.Dialer{Control: control(network)}
	c, err := dialer.Dial(network, path)
	if err != nil {
		return nil, err
	}
	conn := c.(*net.UnixConn)
	conn.SetDeadline(time.Now().Add(handshakeLimit))
	if err := handshake(conn, network, port); err != nil {
		conn.Close()
		return nil, fmt.Errorf("connect to guest port %d: %w", port, err)
	}
	conn.SetDeadline(time.Time{})
	return conn, nil
}

func handshake(conn net.Conn, network string, port uint32) error {
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return err
	}
	read := readLine
	if network == seqpacket {
		read = readMessage
	}
	line, err := read(conn)
	if err != nil {
		return err
	}
	number, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "OK ")
	if _, err := strconv.ParseUint(number, 10, 32); !ok || err != nil {
		return fmt.Errorf("answer %q", line)
	}
	return nil
}

// readLine reads byte by byte: what follows the line belongs to the guest.
func readLine(r io.Reader) (string, error) {
	var line []byte
	b := make([]byte, 1)
	for {
		if _, err := io.ReadFull(r, b); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			return string(line), nil
		}
		line = append(line, b[0])
	}
}

func readMessage(r io.Reader) (string, error) {
	p := make([]byte, 64)
	n, err := r.Read(p)
	return string(p[:n]), err
}
