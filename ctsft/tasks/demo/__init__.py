"""The embedded default: constructed languages at chosen distances, and a micro model that has read all of them."""
