package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"
)

// Client makes requests to a running program. It is safe for concurrent use. A
// request that the program refuses returns an *Error.
type Client struct {
	path string
	http http.Client
}

// NewClient returns a client of the program whose control socket is at path.
// Nothing is connected before the first request.
func NewClient(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	return &Client{path: path, http: http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Close closes connections that wait for another request.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// VMs returns all VMs.
func (c *Client) VMs(ctx context.Context) ([]VM, error) {
	var all vmList
	err := c.call(ctx, http.MethodGet, "/v1/vms", nil, &all)
	return all.VMs, err
}

// VM returns the VM of a name.
func (c *Client) VM(ctx context.Context, name string) (vm VM, err error) {
	err = c.call(ctx, http.MethodGet, vmPath(name), nil, &vm)
	return vm, err
}

// Connections returns the connections of a VM, of all VMs if the name is empty. A VM
// that does not answer is an error where it is the only one, else it is named.
func (c *Client) Connections(ctx context.Context, vm string) (list ConnectionList, err error) {
	path := "/v1/connections"
	if vm != "" {
		path = vmPath(vm) + "/connections"
	}
	err = c.call(ctx, http.MethodGet, path, nil, &list)
	return list, err
}

// Add has another VM served and returns it.
func (c *Client) Add(ctx context.Context, keys Keys) (vm VM, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/vms", keys, &vm)
	return vm, err
}

// Remove ends a VM and returns when it is gone.
func (c *Client) Remove(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, vmPath(name), nil, nil)
}

// Drain has a VM take no new connections, and returns when it has ended with its
// last one or after limit; 0: without limit. The drain goes on though ctx ends.
func (c *Client) Drain(ctx context.Context, name string, limit time.Duration) (result DrainResult, err error) {
	err = c.call(ctx, http.MethodPost, vmPath(name)+"/drain", drainRequest{limit.String()}, &result)
	return result, err
}

// LogLevel returns the least important level that the program logs.
func (c *Client) LogLevel(ctx context.Context) (string, error) {
	var is logLevel
	err := c.call(ctx, http.MethodGet, "/v1/log-level", nil, &is)
	return is.Level, err
}

// SetLogLevel changes it: error, warn, info or debug.
func (c *Client) SetLogLevel(ctx context.Context, level string) error {
	return c.call(ctx, http.MethodPut, "/v1/log-level", logLevel{level}, nil)
}

func vmPath(name string) string { return "/v1/vms/" + url.PathEscape(name) }

// call makes one request with the body as JSON, unless it is nil, and reads the
// answer into to, unless that is nil.
func (c *Client) call(ctx context.Context, method, path string, body, to any) error {
	var text bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&text).Encode(body); err != nil {
			return fmt.Errorf("body: %w", err)
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://control"+path, &text)
	if err != nil {
		return err
	}
	answer, err := c.http.Do(r)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err // the URL is of no use to anybody
		}
		return fmt.Errorf("control socket %s: %w", c.path, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode >= http.StatusMultipleChoices {
		return refusal(answer)
	}
	if to == nil {
		return nil
	}
	if err := json.NewDecoder(answer.Body).Decode(to); err != nil {
		return fmt.Errorf("control socket %s: answer: %w", c.path, err)
	}
	return nil
}

// refusal returns what an answer says that is no success.
func refusal(answer *http.Response) error {
	var why failure
	if err := json.NewDecoder(answer.Body).Decode(&why); err != nil || why.Error == "" {
		why.Error = answer.Status
	}
	return &Error{answer.StatusCode, why.Error}
}
