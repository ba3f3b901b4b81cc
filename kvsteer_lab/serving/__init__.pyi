from .request import SteeringRequest as SteeringRequest
from .request import read_request as read_request
