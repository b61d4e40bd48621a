package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sirupsen/logrus"

	"github.com/vhost-user-vsock/vhost-user-vsock/activated"
)

const (
	// httpClients is how many HTTP connections a server may have open; they come
	// out of the reserved descriptors.
	httpClients = 16

	httpReadLimit   = 5 * time.Second
	httpWriteLimit  = 10 * time.Second
	httpIdleLimit   = time.Minute
	httpFinishLimit = 100 * time.Millisecond
)

// httpServer answers the requests that come by a listening socket.
type httpServer struct {
	listener net.Listener
	server   *http.Server
	done     chan struct{} // closed when the serving goroutine has ended
}

// listenHTTP takes the address, or the inherited socket if that is not nil; nobody is
// answered before start.
func listenHTTP(inherited *activated.Socket, addr string) (*httpServer, error) {
	listen := func() (net.Listener, error) { return net.Listen("tcp", addr) }
	if inherited != nil {
		listen = inherited.Listener
	}
	l, err := listen()
	if err != nil {
		return nil, fmt.Errorf("--metrics-addr %q: %w; give a free address of this machine", addr, err)
	}
	return newHTTPServer(l), nil
}

// newHTTPServer returns a server on l, which it owns then.
func newHTTPServer(l net.Listener) *httpServer {
	return &httpServer{listener: limitListener(l, httpClients), done: make(chan struct{})}
}

// metricsHandler answers /metrics and /healthz, and /debug/pprof/ if it is to.
func metricsHandler(metrics prometheus.Gatherer, health http.Handler, pprof bool, log logrus.FieldLogger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{ErrorLog: log}))
	mux.Handle("GET /healthz", health)
	if pprof {
		handlePprof(mux)
	}
	return mux
}

// start answers requests until close.
func (s *httpServer) start(handler http.Handler, log logrus.FieldLogger) {
	s.server = &http.Server{
		Handler:        handler,
		ReadTimeout:    httpReadLimit,
		WriteTimeout:   httpWriteLimit,
		IdleTimeout:    httpIdleLimit,
		MaxHeaderBytes: 16 << 10,
		ErrorLog:       stdlog.New(debugWriter{log}, "", 0),
	}
	go func() {
		defer close(s.done)
		if err := s.server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
			log.WithError(err).WithField("address", s.listener.Addr().String()).Error("HTTP is no longer served")
		}
	}()
}

// close ends all requests and waits for the serving goroutine.
func (s *httpServer) close() error {
	if s.server == nil {
		return s.listener.Close()
	}
	err := s.server.Close()
	<-s.done
	return err
}

// finish is close once answers that are on their way have left.
func (s *httpServer) finish() error {
	if s.server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), httpFinishLimit)
		defer cancel()
		s.server.Shutdown(ctx) //nolint:errcheck // close ends what has not
	}
	return s.close()
}

// debugWriter turns what net/http says about its clients into log lines.
type debugWriter struct{ log logrus.FieldLogger }

func (w debugWriter) Write(line []byte) (int, error) {
	w.log.WithField("reason", string(bytes.TrimSpace(line))).Debug("HTTP client misbehaved")
	return len(line), nil
}
