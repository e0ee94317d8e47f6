"""HubSpot's Python SDK: makes a deal in the CRM, and signs notifications about it as HubSpot would.

What it signed is accepted; what was tampered with is refused. Leaves behind what the consumers must find, and
what they must not. Called with the file of settings that run.py writes.
"""

import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from check import check
from hubspot import HubSpot
from hubspot.crm.companies import SimplePublicObjectInputForCreate as CompanyInput
from hubspot.crm.deals import SimplePublicObjectInputForCreate as DealInput
from hubspot.utils.signature import Signature

NAME = "HubSpot's Python SDK"
TIMEOUT_SECONDS = 10
# Events that we sign are told from the simulator's by these numbers.
FIRST_EVENT_ID = 1_000_100
# HubSpot's association type of a deal with a company, and how old a signature may be.
DEAL_TO_COMPANY = 341
MAX_AGE_MS = 300_000

settings = json.loads(Path(sys.argv[1]).read_text())
secret, public_url = settings["client_secret"], settings["public_url"]


def make_deal():
    """A deal with what is hard to carry: text beyond ASCII, digits, an association."""
    crm = HubSpot(access_token=settings["access_token"], host=settings["hubspot_url"]).crm
    company = crm.companies.basic_api.create(CompanyInput(properties={"name": "Ærø & Søn"}, associations=[]))
    types = [{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": DEAL_TO_COMPANY}]
    properties = {"dealname": "Zoë ☕ python", "amount": "1234.50", "pipeline": "default", "dealstage": "qualifiedtobuy"}
    deal = crm.deals.basic_api.create(
        DealInput(properties=properties, associations=[{"to": {"id": company.id}, "types": types}]))
    return deal.id, company.id, properties


def notification(event_id, deal_id, properties):
    """A change of the deal's name to what it is, as the body of a request."""
    change = {
        "eventId": event_id, "subscriptionId": 3900002, "portalId": int(settings["portal_id"]), "appId": 15000001,
        "occurredAt": int(time.time() * 1000), "subscriptionType": "object.propertyChange", "attemptNumber": 0,
        "objectId": int(deal_id), "objectTypeId": "0-3", "propertyName": "dealname",
        "propertyValue": properties["dealname"], "changeSource": "CRM_UI", "sourceId": "userId:75500001",
        "isSensitive": False,
    }
    return json.dumps([change], ensure_ascii=False)


def sign(version, body, timestamp=None, url=public_url, key=secret):
    """The headers that HubSpot would send with `body`, computed by the SDK."""
    signature = Signature.get_signature(key, body, version, http_uri=url, timestamp=timestamp)
    if version == "v3":
        return {"X-HubSpot-Signature-v3": signature, "X-HubSpot-Request-Timestamp": timestamp}
    return {"X-HubSpot-Signature": signature, "X-HubSpot-Signature-Version": version}


def post(body, headers):
    """The status that the relay answers with."""
    headers = {"Content-Type": "application/json"} | headers
    request = urllib.request.Request(settings["receiver_url"], body.encode(), headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def expect(claim, wanted, body, headers):
    """Checks the answer to one request."""
    status = post(body, headers)
    check(f"{NAME}: {claim} is answered {wanted}", status == wanted, status)


def main():
    deal_id, company_id, properties = make_deal()
    event_ids = iter(range(FIRST_EVENT_ID, FIRST_EVENT_ID + 100))
    now = str(int(time.time() * 1000))
    accepted, refused = [], []

    def body_for(list_of_ids):
        list_of_ids.append(str(next(event_ids)))
        return notification(int(list_of_ids[-1]), deal_id, properties)

    body = body_for(refused)
    expect("a v3 signature of another URL", 401, body, sign("v3", body, now, url=public_url + "/other"))
    body = body_for(refused)
    stale = str(int(now) - MAX_AGE_MS - 10_000)
    expect("a v3 signature older than five minutes", 401, body, sign("v3", body, stale))
    body = body_for(refused)
    expect("a v1 signature beside a wrong v3", 401, body, sign("v3", body + " ", now) | sign("v1", body))
    body = body_for(refused)
    expect("no signature", 401, body, {})
    # What is accepted comes last, so that a consumer who has it would have had what was refused.
    for version in ("v2", "v1", "v3"):
        body = body_for(refused)
        expect(f"a body changed after the {version} signature", 401, body, sign(version, body + " ", now))
        body = body_for(refused)
        expect(f"a {version} signature with another secret", 401, body, sign(version, body, now, key=secret + "x"))
        body = body_for(accepted)
        expect(f"a {version} signature", 204, body, sign(version, body, now))

    made = {"deal_id": deal_id, "company_id": company_id, "properties": properties, "accepted": accepted, "refused": refused}
    Path(settings["folder"], "expected-python.json").write_text(json.dumps(made))


main()
