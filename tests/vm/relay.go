package vm

import (
	"io"
	"net"
	"path/filepath"
)

// relay passes a stream on to another socket, and stops on the way.
type relay struct {
	socket  string        // where it takes the stream
	reached chan struct{} // closed when it stops
	proceed chan struct{} // to be closed, for it to go on
}

// newRelay returns a relay to the socket at path that stops after some bytes.
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
		go io.Copy(from, to) // to the end of either
		io.CopyN(to, from, bytes)
		close(r.reached)
		<-r.proceed
		io.Copy(to, from)
	}()
	return r
}
