package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/micro"

	"rpc.do/bus"
	"rpc.do/server"
)

// deployed is one version of a service with its instances.
type deployed struct {
	Name        string            `json:"name"`
	Version     string            `json:"version"`
	Description string            `json:"description"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	Instances   []string          `json:"instances"` // ids
	Methods     []method          `json:"methods"`
}

// method is one method of a service as discovery shows it.
type method struct {
	Name        string          `json:"name"` // as rpcdo call takes it
	Subject     string          `json:"subject"`
	Description string          `json:"description,omitempty"`
	Idempotent  bool            `json:"idempotent"`
	TimeoutMs   json.Number     `json:"timeout_ms,omitempty"`
	Params      json.RawMessage `json:"params,omitempty"` // JSON Schema
	Result      json.RawMessage `json:"result,omitempty"`
}

// listed is a deployed service in short.
type listed struct {
	Name        string   `json:"name"`
	Version     string   `json:"version"`
	Description string   `json:"description"`
	Instances   int      `json:"instances"`
	Methods     []string `json:"methods"`
}

func (d *deployed) listed() listed {
	l := listed{Name: d.Name, Version: d.Version, Description: d.Description, Instances: len(d.Instances), Methods: []string{}}
	for _, m := range d.Methods {
		l.Methods = append(l.Methods, m.Name)
	}
	return l
}

// mergeInfos puts the instances of each version together. Instances of one
// version have the same methods; should they not, each method is there once.
func mergeInfos(infos []micro.Info) []*deployed {
	byVersion := map[[2]string]*deployed{}
	list := []*deployed{}
	for _, info := range infos {
		key := [2]string{info.Name, info.Version}
		d := byVersion[key]
		if d == nil {
			d = &deployed{
				Name: info.Name, Version: info.Version, Description: info.Description,
				Metadata: info.Metadata, Methods: []method{},
			}
			byVersion[key] = d
			list = append(list, d)
		}
		d.Instances = append(d.Instances, info.ID)
		for _, ep := range info.Endpoints {
			d.Methods = append(d.Methods, newMethod(ep))
		}
	}
	for _, d := range list {
		slices.Sort(d.Instances)
		d.Instances = slices.Compact(d.Instances)
		slices.SortStableFunc(d.Methods, func(a, b method) int { return cmp.Compare(a.Subject, b.Subject) })
		d.Methods = slices.CompactFunc(d.Methods, func(a, b method) bool { return a.Subject == b.Subject })
	}
	slices.SortFunc(list, func(a, b *deployed) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version))
	})
	return list
}

func newMethod(ep micro.EndpointInfo) method {
	m := method{
		Name: methodName(ep.Subject), Subject: ep.Subject,
		Description: cmp.Or(ep.Metadata[server.MetadataDescription], ep.Metadata["description"]),
		Idempotent:  ep.Metadata[server.MetadataIdempotent] == "true",
		Params:      schema(ep.Metadata[server.MetadataParams]),
		Result:      schema(ep.Metadata[server.MetadataResult]),
	}
	if t := ep.Metadata[server.MetadataTimeout]; t != "" && json.Valid([]byte(t)) {
		m.TimeoutMs = json.Number(t)
	}
	return m
}

// methodName returns what rpcdo call takes for a method with that subject:
// "math.add" for "rpc.math.add". A service that is not called so keeps its
// subject.
func methodName(subject string) string { return strings.TrimPrefix(subject, bus.CallPrefix) }

// schema returns a JSON Schema that came as text; none when it is not JSON.
func schema(text string) json.RawMessage {
	if !json.Valid([]byte(text)) {
		return nil
	}
	return json.RawMessage(text)
}

// print writes the service for people. Columns are separated by tabs.
func (d *deployed) print(w io.Writer) {
	fmt.Fprintf(w, "%s %s\t%s\n", plain(d.Name), plain(d.Version), plain(d.Description))
	fmt.Fprintf(w, "  instances\t%d: %s\n", len(d.Instances), plain(strings.Join(d.Instances, ", ")))
	for _, k := range slices.Sorted(maps.Keys(d.Metadata)) {
		fmt.Fprintf(w, "  %s\t%s\n", plain(k), plain(d.Metadata[k]))
	}
	for _, m := range d.Methods {
		var marks []string
		if m.Idempotent {
			marks = append(marks, "idempotent")
		}
		if m.TimeoutMs != "" {
			marks = append(marks, "timeout "+plain(string(m.TimeoutMs))+" ms")
		}
		text := plain(m.Description)
		if len(marks) > 0 {
			text = strings.TrimSpace(text + " (" + strings.Join(marks, ", ") + ")")
		}
		fmt.Fprintf(w, "  %s\t%s\n", plain(m.Name), text)
	}
}
