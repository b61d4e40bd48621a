package tests

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
)

// greeter makes the guest greet whoever connects to a port.
func (b *board) greeter(t testing.TB, greeting string) (port uint32) {
	port = newPort()
	l := b.guest.Listen(port)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, greeting)
			c.Shutdown(csm.ShutdownSend)
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return port
}

// firecracker-go-sdk reads the answer through a buffer of 32 bytes and throws
// away what else is in it: what the guest says first must not come with the OK.
func TestSimulatedClientThatReadsTooMuch(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := h.boot(t)
	port := b.greeter(t, "SSH-2.0-greeting")
	for range 100 {
		c := h.client(t, fmt.Sprintf("CONNECT %d\n", port))
		line, err := bufio.NewReaderSize(c, 32).ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "OK ") {
			t.Fatalf("%q, %v", line, err)
		}
		mustRead(t, c, []byte("SSH-2.0-greeting"))
	}
}

// systemd-ssh-proxy looks once, with room for nine bytes, and wants the line whole.
func TestSimulatedClientWithNineBytes(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	port := h.boot(t).greeter(t, "SSH-2.0-greeting")
	for range 100 {
		fd := rawDial(t, h.UDS)
		defer unix.Close(fd)
		tv := unix.NsecToTimeval(patience.Nanoseconds())
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
		unix.Write(fd, fmt.Appendf(nil, "CONNECT %d\n", port))
		var p [len("OK 65535\n")]byte
		n, _, err := unix.Recvfrom(fd, p[:], unix.MSG_PEEK)
		for err == unix.EINTR {
			n, _, err = unix.Recvfrom(fd, p[:], unix.MSG_PEEK)
		}
		if err != nil || !strings.HasPrefix(string(p[:n]), "OK ") || !strings.HasSuffix(string(p[:n]), "\n") {
			t.Fatalf("%q, %v", p[:max(n, 0)], err)
		}
		unix.Read(fd, p[:n])
		var rest []byte
		for chunk := make([]byte, 64); ; {
			n, err := unix.Read(fd, chunk)
			if n <= 0 {
				if err != nil {
					t.Error(err)
				}
				break
			}
			rest = append(rest, chunk[:n]...)
		}
		if string(rest) != "SSH-2.0-greeting" {
			t.Fatalf("behind the OK came %q", rest)
		}
	}
}

// Cuttlefish writes the keyword in lower case and wants the guest's port back.
func TestSimulatedClientThatWantsTheGuestsPort(t *testing.T) {
	t.Parallel()
	h := newHost(t, "--ok-port", "guest")
	port := h.boot(t).greeter(t, "")
	c := h.client(t, fmt.Sprintf("connect %d\n", port))
	mustRead(t, c, fmt.Appendf(nil, "OK %d\n", port))
}

// With --ok-port host, the number has been the same for years.
func TestSimulatedClientThatKnowsHostPorts(t *testing.T) {
	t.Parallel()
	h := newHost(t, "--ok-port", "host")
	port := h.boot(t).greeter(t, "")
	answer, err := io.ReadAll(h.client(t, fmt.Sprintf("CONNECT %d\n", port)))
	var number uint64
	if _, scan := fmt.Sscanf(string(answer), "OK %d\n", &number); err != nil || scan != nil || number < 1<<30 {
		t.Errorf("%q, %v", answer, err)
	}
}

// "socat -u" writes and leaves: what it wrote arrives. One that leaves without a
// word is forgotten, and the guest gets no connection to nobody.
func TestSimulatedClientsThatLeave(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := h.boot(t)
	port := newPort()
	l := b.guest.Listen(port)
	data := bytesOf(50 * kib)
	for range 100 {
		c := h.client(t, fmt.Sprintf("CONNECT %d\n", port))
		mustWrite(t, c, data)
		c.Close()
		g := mustAccept(t, l)
		mustRead(t, g, data)
		g.Close()
	}
	for range 100 {
		h.client(t, fmt.Sprintf("CONNECT %d\n", port)).Close()
	}
	h.mustForget()
	l.Close()
	b.mustWork(kib)
	if n := b.guest.Conns(); n > 2 { // the last ones may be dying
		t.Errorf("the guest has %d connections to nobody", n)
	}
}

// Lines in every dress, with payload behind them; the client half-closes, and
// every byte arrives, in both directions.
func TestSimulatedPipelinedClients(t *testing.T) {
	t.Parallel()
	b := newHost(t).boot(t)
	port := newPort()
	l := b.guest.Listen(port)
	data := bytesOf(150 * kib)
	for _, format := range []string{"CONNECT %d\n", "connect %d\n", "CoNnEcT %d\r\n"} {
		for _, pieces := range []bool{false, true} {
			c := b.host.client(t, "")
			line := fmt.Appendf(nil, format, port)
			if pieces {
				for _, x := range line {
					mustWrite(t, c, []byte{x})
				}
			} else {
				mustWrite(t, c, append(line, "and "...))
			}
			mustWrite(t, c, data)
			c.CloseWrite()
			g := mustAccept(t, l)
			if !pieces {
				mustReadJust(t, g, []byte("and "))
			}
			mustRead(t, g, data)
			mustWrite(t, g, data)
			g.Close()
			answer := bufio.NewReader(c)
			if line, err := answer.ReadString('\n'); err != nil || !strings.HasPrefix(line, "OK ") {
				t.Fatalf("%q, %v", line, err)
			}
			mustRead(t, answer, data)
		}
	}
}

// Clients retry at end of file and give up at any error, so whatever the reason,
// and whatever they have sent, a refusal is end of file behind the CONNECT line.
func TestSimulatedRefusedClients(t *testing.T) {
	t.Parallel()
	refuse := func(t *testing.T, h *host, line string) {
		t.Helper()
		// More than one segment of a socket could meet the close: what is written
		// after it fails, whatever was read away before.
		for _, payload := range []int{0, 1, 40 * kib} {
			mustEndAt(t, h.client(t, line+string(bytesOf(payload))))
		}
		c := h.client(t, "") // connects long before it speaks
		h.mustBeAlive()
		mustWrite(t, c, []byte(line))
		mustEndAt(t, c)
	}
	line := "CONNECT 52\n"
	t.Run("no frontend", func(t *testing.T) {
		t.Parallel()
		h := newHost(t)
		refuse(t, h, line)
		h.await(4, "handshakes_total", `result="no_guest"`)
	})
	t.Run("nobody listens in the guest", func(t *testing.T) {
		t.Parallel()
		h := newHost(t)
		h.boot(t)
		refuse(t, h, line)
		h.await(4, "handshakes_total", `result="refused"`)
	})
	t.Run("frontend leaves", func(t *testing.T) {
		t.Parallel()
		h := newHost(t)
		b := h.plug(t, vhostusertest.QEMU10, vhostusertest.GuestOptions{})
		c := h.client(t, line+"payload")
		h.await(1, "clients")
		b.frontend.Close()
		mustEndAt(t, c)
	})
	t.Run("bad lines", func(t *testing.T) {
		t.Parallel()
		h := newHost(t)
		h.boot(t)
		bad := []string{"GET / HTTP/1.1\r\n\r\n", "CONNECT\n", "CONNECT 4294967296\n", "CONNECT -1\n", "CONNECT 5x\n", "\n", strings.Repeat("CONNECT ", 10)}
		for _, line := range bad {
			mustEndAt(t, h.client(t, line))
		}
		h.await(len(bad), "handshakes_total", `result="bad_line"`)
	})
}

// A guest that stands still, one that does not answer, and a client that does not
// speak: two seconds, by the clock on the wall.
func TestSimulatedClientsWaitTwoSeconds(t *testing.T) {
	t.Parallel()
	wait := func(t *testing.T, h *host, line string) {
		t.Helper()
		begin := time.Now()
		mustEndAt(t, h.client(t, line))
		if took := time.Since(begin); took < 1900*time.Millisecond || took > 4*time.Second {
			t.Errorf("end of file after %v", took)
		}
	}
	t.Run("guest stands still", func(t *testing.T) {
		t.Parallel()
		h := newHost(t)
		b := h.boot(t)
		port := b.greeter(t, "")
		b.peer.Stop()
		b.frontend.Barrier()
		wait(t, h, fmt.Sprintf("CONNECT %d\n", port))
		b.peer.Resume()
		b.mustWork(kib)
	})
	t.Run("guest does not answer", func(t *testing.T) {
		t.Parallel()
		h := newHost(t)
		_, d := h.bare(t, muxertest.Options{})
		wait(t, h, "CONNECT 52\n")
		d.Expect(csm.OpRequest)
		d.Expect(csm.OpRST)
	})
	t.Run("no driver yet", func(t *testing.T) {
		t.Parallel()
		h := newHost(t)
		h.plug(t, vhostusertest.QEMU10, vhostusertest.GuestOptions{})
		wait(t, h, "CONNECT 52\n")
	})
	t.Run("client does not speak", func(t *testing.T) {
		t.Parallel()
		h := newHost(t)
		h.boot(t)
		wait(t, h, "CONNE")
	})
}

// A client that comes while the guest is still booting gets its connection.
func TestSimulatedClientIsEarly(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := h.plug(t, vhostusertest.QEMU10, vhostusertest.GuestOptions{})
	c := h.client(t, "CONNECT 52\nearly")
	h.await(1, "clients")
	b.peer.Start()
	d := b.driver()
	q := d.Expect(csm.OpRequest)
	d.Send(d.Header(52, q.SrcPort, csm.OpResponse), nil)
	mustReadJust(t, c, []byte("OK "))
	if p := d.Expect(csm.OpRW); string(p.Payload) != "early" {
		t.Errorf("%q", p.Payload)
	}
}
