package vm

import (
	"io"
	"net"
	"path/filepath"
)

// relay passes a conversation on to another socket, and stops once on the way.
type relay struct {
	socket  string        // where it takes the conversation
	reached chan struct{} // closed when it stops
	proceed chan struct{} // to be closed, for it to go on
}

// newRelay returns a relay to the socket at path. It stops before the first answer that
// comes after so many bytes were said.
func newRelay(t TB, path string, bytes int64) *relay {
	t.Helper()
	r := &relay{filepath.Join(tempDir(t), "relay"), make(chan struct{}), make(chan struct{})}
	l, err := net.Listen("unix", r.socket)
	if err != nil {
		t.Fatalf("relay: %v", err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		from, err := l.Accept()
		if err != nil {
			return
		}
		defer from.Close()
		to, err := net.Dial("unix", path)
		if err != nil {
			return
		}
		defer to.Close()
		r.run(from, to, bytes)
	}()
	return r
}

// run ends with the conversation, or when either side does not listen.
func (r *relay) run(from, to net.Conn, bytes int64) {
	said := make(chan struct{})
	go func() {
		io.CopyN(to, from, bytes)
		close(said)
		io.Copy(to, from)
		to.Close()
	}()
	p := make([]byte, 4096)
	for stopped := false; ; {
		n, err := to.Read(p)
		if err != nil {
			return
		}
		select {
		case <-said:
			if !stopped {
				stopped = true
				close(r.reached)
				<-r.proceed
			}
		default:
		}
		if _, err := from.Write(p[:n]); err != nil {
			return
		}
	}
}
