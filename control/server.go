package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

const (
	// maxBody is the largest body of a request in bytes.
	maxBody = 64 << 10
	// maxDrains is how many clients may wait for drains at once. Each has one of the
	// program's connections for as long as that takes, and others shall find one free.
	maxDrains = 8
)

// Program is what the interface shows and changes. Its methods are safe for
// concurrent use. An error that is an *Error goes to the client as it is.
type Program interface {
	// VMs returns all VMs, those that failed included.
	VMs() []VM
	// Connections returns the connections of the VM with the name, of all VMs if it
	// is empty; of these, those that do not answer in time are named.
	Connections(vm string) (ConnectionList, error)
	// Add serves another VM.
	Add(Keys) (VM, error)
	// Remove ends a VM and returns when it is gone.
	Remove(vm string) error
	// Drain has a VM take no new connections and ends it with the last one, or when
	// the limit has passed, if it is not 0. It returns when the VM is gone, or when ctx
	// ends; the drain goes on then.
	Drain(ctx context.Context, vm string, limit time.Duration) (DrainResult, error)
	// LogLevel returns the least important level that is logged.
	LogLevel() string
	SetLogLevel(level string) error
}

// Handler answers requests about p.
func Handler(p Program) http.Handler {
	s := &server{program: p, drains: make(chan struct{}, maxDrains)}
	mux := http.NewServeMux()
	handle := func(pattern string, call func(r *http.Request, body []byte) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			body, err := takeBody(w, r)
			var answer any
			if err == nil {
				answer, err = call(r, body)
			}
			reply(w, answer, err)
		})
	}
	handle("GET /v1/vms", s.listVMs)
	handle("POST /v1/vms", s.addVM)
	handle("GET /v1/vms/{name}", s.showVM)
	handle("DELETE /v1/vms/{name}", s.removeVM)
	handle("GET /v1/vms/{name}/connections", s.listConnections)
	handle("POST /v1/vms/{name}/drain", s.drainVM)
	handle("GET /v1/connections", s.listConnections)
	handle("GET /v1/log-level", s.showLogLevel)
	handle("PUT /v1/log-level", s.setLogLevel)
	handle("/", func(r *http.Request, _ []byte) (any, error) {
		return nil, &Error{http.StatusNotFound, fmt.Sprintf("%s %s: no such call; the manual lists them", r.Method, r.URL.Path)}
	})
	return mux
}

// server turns requests into calls of the program.
type server struct {
	program Program
	drains  chan struct{} // holds one element for each client that waits for one
}

// created is an answer with status 201.
type created struct{ VM }

// takeBody reads the body.
func takeBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return nil, badRequest("body: larger than %d bytes", maxBody)
	}
	if err != nil {
		return nil, badRequest("body: %w", err)
	}
	return body, nil
}

// reply writes what came of a request.
func reply(w http.ResponseWriter, body any, err error) {
	status := http.StatusOK
	switch body.(type) {
	case created:
		status = http.StatusCreated
	case nil:
		status = http.StatusNoContent
	}
	if err != nil {
		status, body = http.StatusInternalServerError, failure{err.Error()}
		if refused, ok := errors.AsType[*Error](err); ok {
			status = refused.Status
		}
	}
	// It may have taken longer than the time that writing has by now.
	limit := time.Now().Add(writeLimit)
	http.NewResponseController(w).SetWriteDeadline(limit) //nolint:errcheck // then it has the server's
	if status == http.StatusNoContent {
		w.WriteHeader(status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body) //nolint:errcheck // the client has gone
}

// writeLimit bounds the writing of an answer.
const writeLimit = 10 * time.Second

func (s *server) listVMs(*http.Request, []byte) (any, error) {
	vms := s.program.VMs()
	if vms == nil {
		vms = []VM{} // an empty list, not null
	}
	return vmList{vms}, nil
}

func (s *server) showVM(r *http.Request, _ []byte) (any, error) {
	name := r.PathValue("name")
	for _, vm := range s.program.VMs() {
		if vm.Name == name {
			return vm, nil
		}
	}
	return nil, NoSuchVM(name)
}

// NoSuchVM is the error about a VM that is not there.
func NoSuchVM(name string) error {
	return &Error{http.StatusNotFound, fmt.Sprintf("VM %q: there is none of this name", name)}
}

func (s *server) listConnections(r *http.Request, _ []byte) (any, error) {
	list, err := s.program.Connections(r.PathValue("name"))
	if list.Connections == nil {
		list.Connections = []Connection{} // an empty list, not null
	}
	return list, err
}

func (s *server) addVM(_ *http.Request, body []byte) (any, error) {
	var keys Keys
	if err := readBody(body, &keys); err != nil {
		return nil, err
	}
	vm, err := s.program.Add(keys)
	return created{vm}, err
}

func (s *server) removeVM(r *http.Request, _ []byte) (any, error) {
	return nil, s.program.Remove(r.PathValue("name"))
}

func (s *server) drainVM(r *http.Request, body []byte) (any, error) {
	var asked drainRequest
	if err := readBody(body, &asked); err != nil && err != errNoBody {
		return nil, err
	}
	limit, err := parseTimeout(asked.Timeout)
	if err != nil {
		return nil, err
	}
	select {
	case s.drains <- struct{}{}:
		defer func() { <-s.drains }()
	default:
		return nil, &Error{http.StatusServiceUnavailable, fmt.Sprintf("%d clients wait for drains already; try again when one has ended", maxDrains)}
	}
	return s.program.Drain(r.Context(), r.PathValue("name"), limit)
}

// parseTimeout reads how long a drain may take; 0: as long as it will.
func parseTimeout(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	limit, err := time.ParseDuration(text)
	if err != nil || limit < 0 {
		return 0, badRequest(`timeout %q: not a time to wait; give 0, or a number with ms, s, m or h behind it`, text)
	}
	return limit, nil
}

func (s *server) showLogLevel(*http.Request, []byte) (any, error) {
	return logLevel{s.program.LogLevel()}, nil
}

func (s *server) setLogLevel(r *http.Request, body []byte) (any, error) {
	var asked logLevel
	if err := readBody(body, &asked); err != nil {
		return nil, err
	}
	if err := s.program.SetLogLevel(asked.Level); err != nil {
		return nil, err
	}
	return s.showLogLevel(r, nil)
}

// errNoBody is an empty body.
var errNoBody = badRequest("body: empty; give a JSON object")

// readBody reads one JSON value that has no keys but those of v.
func readBody(body []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	switch err := d.Decode(v); {
	case err == io.EOF:
		return errNoBody
	case err != nil:
		if key, unknown := strings.CutPrefix(err.Error(), "json: unknown field "); unknown {
			return badRequest("body: %s: no such key; drop it", key)
		}
		return badRequest("body: not what is asked for: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return badRequest("body: more than one JSON value; give one")
	}
	return nil
}

// badRequest is the error about what a client sent.
func badRequest(format string, args ...any) error {
	return &Error{http.StatusBadRequest, fmt.Errorf(format, args...).Error()}
}
