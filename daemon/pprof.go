package daemon

import (
	"net/http"
	"net/http/pprof"
)

// handlePprof adds the profiles of the program to what mux serves. The package has put
// them into http.DefaultServeMux as well, by being imported: nobody serves that. A
// profile may take longer than the server's limits, which the package knows of.
func handlePprof(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/pprof/", pprof.Index) // and the profiles that it names
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
}
