package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/vhost-user-vsock/vhost-user-vsock/activated"
)

// ParseVM returns the VM that a JSON object describes, whose keys and values are
// those of a VM in the configuration file. It is checked as there, but not beside
// other VMs. Of sockets it has those that are for it.
func (d Defaults) ParseVM(object []byte, granted Granted, sockets []*activated.Socket) (VM, error) {
	own, err := parseObject(object)
	if err != nil {
		return VM{}, err
	}
	from := vmSources{own: own, defaults: d}
	return from.load(checks{granted: granted, sockets: inheritance{sockets: sockets}})
}

// parseObject takes the object apart.
func parseObject(object []byte) (section, error) {
	s := section{place: "VM", inFile: true}
	tokens := json.NewDecoder(bytes.NewReader(object))
	tokens.UseNumber() // a value is what is written
	if begin, err := tokens.Token(); err != nil || begin != json.Delim('{') {
		return s, errors.New("not keys with values; give a JSON object")
	}
	for tokens.More() {
		key, err := tokens.Token()
		if err != nil {
			return s, err
		}
		val, err := tokens.Token()
		if err != nil {
			return s, err
		}
		if err := s.noteMember(key.(string), val); err != nil {
			return s, err
		}
	}
	return s, nil
}

// noteMember adds one key and value of an object.
func (s *section) noteMember(key string, val json.Token) error {
	var text string
	switch val := val.(type) {
	case string:
		text = val
	case json.Number:
		text = val.String()
	case bool:
		text = strconv.FormatBool(val)
	default:
		return fmt.Errorf("%s: not a single value; give a string, a number, true or false", key)
	}
	o := optionNamed(key)
	switch {
	case o == nil:
		return fmt.Errorf("%s: no such key; drop it", key)
	case o.vm == nil:
		return fmt.Errorf("%s: an option of the program, not of a VM; drop it", key)
	case o.flag:
		return fmt.Errorf("%s: only on the command line, for a running program inherits no descriptor", key)
	case s.values[o.name] != nil:
		return fmt.Errorf("%s: given twice; give it once", key)
	}
	return s.note(o, value{key, text})
}
