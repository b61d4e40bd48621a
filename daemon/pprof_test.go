package daemon

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// pipes is a listener whose clients call connect.
type pipes struct {
	net.Listener // not used
	server       chan net.Conn
}

func (p *pipes) connect() net.Conn {
	client, server := net.Pipe()
	p.server <- server
	return client
}

func (p *pipes) Accept() (net.Conn, error) {
	c, ok := <-p.server
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (p *pipes) Close() error   { close(p.server); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }

// A profile may take longer than any limit of the server.
func TestPprofOutlastsTheLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{server: make(chan net.Conn)}
		s := newHTTPServer(p)
		s.start(metricsHandler(prometheus.NewRegistry(), http.NotFoundHandler(), true, quietLog()), quietLog())
		defer s.close()
		const longer = 10 * max(httpReadLimit, httpWriteLimit, httpIdleLimit)
		began := time.Now()
		c := p.connect()
		defer c.Close()
		if _, err := fmt.Fprintf(c, "GET /debug/pprof/allocs?seconds=%d HTTP/1.1\r\nHost: here\r\n\r\n", longer/time.Second); err != nil {
			t.Fatal(err)
		}
		answer, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != http.StatusOK || len(body) < 2 || body[0] != 0x1f || body[1] != 0x8b { // gzip
			t.Errorf("status %d, %d bytes: %.100q, error %v", answer.StatusCode, len(body), body, err)
		}
		if took := time.Since(began); took < longer {
			t.Errorf("took %v", took)
		}
	})
}
