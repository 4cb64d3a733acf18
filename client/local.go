package client

import (
	"context"
	"maps"
	"time"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/client/internal/isolate"
)

// callLocal calls a service of this process. It reports false when that
// instance took no call, so that others may be asked over the bus.
func (c *Client) callLocal(ctx context.Context, svc bus.LocalService, call *rpc.Call, chain []string, start time.Time, timeout time.Duration) (done bool, err error) {
	_, json := c.config.Codec.(bus.JSON)
	p := &localParams{client: c, call: call, limit: c.bus.MaxPayload(), json: json}
	id := call.ID
	if id == "" {
		id = c.pending.inbox.Identity(c.bus.InboxPrefix(), c.pending.number.Add(1))
	}
	req := bus.Request{
		Method: call.Method, ID: id, Once: call.ID == "", Caller: c.callerName(call), Object: call.Object, Chain: chain,
		Attempt: 1, Age: call.Age, Timeout: timeout, Sent: start, Header: maps.Clone(call.Header),
	}
	if !json {
		req.ContentType = c.config.Codec.ContentType()
	}
	result, err := svc.ServeLocal(ctx, &req, p)
	if err != nil {
		if cause := ctx.Err(); cause != nil && rpc.CodeOf(cause) == rpc.CodeOf(err) {
			t := transmission{call: call, deadline: time.Time{}.Add(timeout)}
			return true, t.gaveUp(cause)
		}
		e, coded := err.(*rpc.Error)
		if coded && e.Remote() { // nothing else of it would have come over the bus
			e = bus.DecodeError(bus.EncodeError("", e, p.limit))
			err = e
		}
		if coded && call.Object != "" && e.Code == rpc.Unavailable && e.RetryAfter > 0 && !e.Retryable {
			// The owner does not know what came of it. It is asked again over the
			// bus, under the same identity.
			call.ID, call.Age = id, max(time.Since(start), time.Millisecond)+call.Age
			return false, err
		}
		return !coded || !e.Retryable, err
	}
	return true, p.takeResult(result)
}

// localParams hands over the values of a local call: as copies where their
// types allow it, encoded and decoded otherwise, so that neither side can reach
// the other's memory.
type localParams struct {
	client *Client
	call   *rpc.Call
	limit  int64
	json   bool // a copy is what JSON makes of a value, so another codec has none
}

func (p *localParams) CopyTo(dst any) bool {
	return p.json && isolate.CopyAny(dst, p.call.Params, p.limit)
}

func (p *localParams) Encode() ([]byte, error) {
	payload, err := bus.EncodeParams(p.client.config.Codec, p.call)
	if err != nil {
		return nil, err
	}
	return payload, bus.CheckParams(p.call, nil, payload, p.limit)
}

func (p *localParams) takeResult(result any) error {
	if p.json && isolate.CopyAny(p.call.Result, result, p.limit) {
		return nil
	}
	payload, failed := p.encodeResult(result)
	if failed != nil {
		return failed.AsRemote()
	}
	return decodeResult(p.client.config.Codec, p.call, payload)
}

// encodeResult runs code of the service's result, whose panic is the service's
// fault, as it would be on the bus.
func (p *localParams) encodeResult(result any) (payload []byte, err *rpc.Error) {
	defer func() {
		if recover() != nil {
			err = rpc.Internal.Errorf("internal error in %s: its result can't be encoded", p.call.Name())
		}
	}()
	return bus.EncodeResult(p.client.config.Codec, p.call, result, p.limit)
}
