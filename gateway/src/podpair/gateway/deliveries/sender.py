"""Makes one attempt at a delivery, by the way that its subscription goes."""

from podpair.common.gateway_config.deliveries import Deliveries
from podpair.gateway.core.deliveries.parcels import Parcel
from podpair.gateway.core.deliveries.subscriptions import Subscription
from podpair.gateway.core.deliveries.web_push import VapidKey
from podpair.gateway.deliveries.attempt import Attempt
from podpair.gateway.deliveries.http_sender import HttpSender
from podpair.gateway.deliveries.mail_sender import MailSender


class Sender:
    """All ways. vapid: the key of Web Push; None: there is none."""

    def __init__(self, config: Deliveries, vapid: VapidKey | None) -> None:
        self._http = HttpSender(config, vapid)
        self._mail = MailSender(config)

    def check_files(self) -> None:
        """Raise FaultsError if a file that the settings name can't be used."""
        self._mail.check_files()

    async def attempt(self, subscription: Subscription, parcel: Parcel) -> Attempt:
        """Send the parcel once."""
        sender = self._mail if subscription.kind == "email" else self._http
        return await sender.attempt(subscription, parcel)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()
