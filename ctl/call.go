package ctl

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/vhost-user-vsock/vhost-user-vsock/config"
	"github.com/vhost-user-vsock/vhost-user-vsock/control"
)

// call is one run of a command.
type call struct {
	commandLine
	client *control.Client
	stdout io.Writer
}

// answer prints the daemon's answer: as it was, or what it says by lines.
func (c *call) answer(response any, lines ...string) error {
	if !c.json {
		return show(c.stdout, strings.Join(lines, "\n")+"\n")
	}
	text, err := json.MarshalIndent(response, "", "  ")
	if err != nil {
		return err
	}
	return show(c.stdout, plainJSON(text)+"\n")
}

// arg returns the argument, or "" where none was given.
func (c *call) arg() string { return strings.Join(c.args, "") }

func vms(c *call) error {
	list, err := c.client.VMs(context.Background())
	if err != nil {
		return err
	}
	return c.answer(map[string]any{"vms": list}, vmLines(list)...)
}

func connections(c *call) error {
	list, err := c.client.Connections(context.Background(), c.arg())
	if err != nil {
		return err
	}
	return c.answer(list, connectionLines(list)...)
}

func add(c *call) error {
	options, err := config.VMOptions(c.arg())
	if err != nil {
		return usageError{fmt.Errorf("add %q: %w", c.arg(), err)}
	}
	keys, err := json.Marshal(options)
	if err != nil {
		return err
	}
	vm, err := c.client.Add(context.Background(), keys)
	if err != nil {
		return err
	}
	return c.answer(vm, plain(fmt.Sprintf("%s is there: its VMM connects to %s, host programs to %s", vm.Name, vm.Socket, vm.UDSPath)))
}

func remove(c *call) error {
	err := c.client.Remove(context.Background(), c.arg())
	if err != nil || c.json { // to which the answer is empty
		return err
	}
	return c.answer(nil, plain(c.arg()+" is gone"))
}

func drain(c *call) error {
	result, err := c.client.Drain(context.Background(), c.arg(), c.timeout)
	if err != nil {
		return err
	}
	line := c.arg() + " is gone; no connection was cut"
	if n := result.ConnectionsCut; n > 0 {
		line = fmt.Sprintf("%s is gone; connections cut: %d", c.arg(), n)
	}
	return c.answer(result, plain(line))
}

func logLevel(c *call) error {
	if c.arg() != "" {
		if err := c.client.SetLogLevel(context.Background(), c.arg()); err != nil {
			return err
		}
	}
	level, err := c.client.LogLevel(context.Background())
	if err != nil {
		return err
	}
	return c.answer(map[string]any{"level": level}, plain(level))
}
